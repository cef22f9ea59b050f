package modbus

import (
	"errors"
	"fmt"

	"github.com/goburrow/modbus"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus/wire"
)

// The errors of a job besides exceptions and those of package wire. The device could not be
// reached.
var (
	errSilent  = fmt.Errorf("%w: unit does not respond and will be probed later", devices.ErrUnreachable)
	errBusy    = fmt.Errorf("%w: unit busy", devices.ErrUnreachable)
	errGateway = fmt.Errorf("%w: gateway cannot reach the unit", devices.ErrUnreachable)
	errStopped = fmt.Errorf("%w: session stopped", devices.ErrUnreachable)
)

// The exception codes that mean something to the driver (MODBUS Application Protocol
// V1.1b3, 7).
const (
	excIllegalFunction = 1
	excIllegalAddress  = 2
	excIllegalValue    = 3
	excDeviceFailure   = 4
	excAcknowledge     = 5
	excBusy            = 6
	excGatewayPath     = 10
	excGatewayTarget   = 11
)

// exception returns the code of a Modbus exception, or 0 for any other error.
func exception(err error) byte {
	var e *modbus.ModbusError
	if errors.As(err, &e) {
		return e.ExceptionCode
	}
	return 0
}

// illegalRange reports whether a unit refuses the addresses of a request.
func illegalRange(err error) bool {
	c := exception(err)
	return c == excIllegalAddress || c == excIllegalValue
}

// reason returns the reason that a reading gives for an error.
func reason(err error) string {
	switch {
	case errors.Is(err, wire.ErrTimeout):
		return "Timeout"
	case errors.Is(err, errSilent):
		return "UnitSilent"
	case errors.Is(err, errBusy):
		return "UnitBusy"
	case errors.Is(err, errGateway):
		return "GatewayTargetSilent"
	case errors.Is(err, wire.ErrLink):
		return "LinkDown"
	case errors.Is(err, wire.ErrGarbled):
		return "GarbledAnswer"
	case errors.Is(err, errStopped):
		return "Stopped"
	}
	switch c := exception(err); c {
	case 0:
		return "ProtocolError"
	case excIllegalFunction:
		return "IllegalFunction"
	case excIllegalAddress:
		return "IllegalAddress"
	case excIllegalValue:
		return "IllegalValue"
	case excDeviceFailure:
		return "DeviceFailure"
	default:
		return fmt.Sprintf("Exception%d", c)
	}
}
