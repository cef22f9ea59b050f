package link

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
	ErrBusy    = fmt.Errorf("%w: unit busy", devices.ErrUnreachable)
	errGateway = fmt.Errorf("%w: gateway cannot reach the unit", devices.ErrUnreachable)
	ErrStopped = fmt.Errorf("%w: session stopped", devices.ErrUnreachable)
)

// The exception codes that mean something to the driver (MODBUS Application Protocol
// V1.1b3, 7).
const (
	IllegalFunction = 1
	IllegalAddress  = 2
	IllegalValue    = 3
	DeviceFailure   = 4
	Acknowledge     = 5
	Busy            = 6
	GatewayPath     = 10
	GatewayTarget   = 11
)

// Exception returns the code of a Modbus exception, or 0 for any other error.
func Exception(err error) byte {
	var e *modbus.ModbusError
	if errors.As(err, &e) {
		return e.ExceptionCode
	}
	return 0
}

// IllegalRange reports whether a unit refuses the addresses of a request.
func IllegalRange(err error) bool {
	c := Exception(err)
	return c == IllegalAddress || c == IllegalValue
}

// Reason returns the reason that a reading gives for an error.
func Reason(err error) string {
	switch {
	case errors.Is(err, wire.ErrTimeout):
		return "Timeout"
	case errors.Is(err, errSilent):
		return "UnitSilent"
	case errors.Is(err, ErrBusy):
		return "UnitBusy"
	case errors.Is(err, errGateway):
		return "GatewayTargetSilent"
	case errors.Is(err, wire.ErrLink):
		return "LinkDown"
	case errors.Is(err, wire.ErrGarbled):
		return "GarbledAnswer"
	case errors.Is(err, ErrStopped):
		return "Stopped"
	}
	switch c := Exception(err); c {
	case 0:
		return "ProtocolError"
	case IllegalFunction:
		return "IllegalFunction"
	case IllegalAddress:
		return "IllegalAddress"
	case IllegalValue:
		return "IllegalValue"
	case DeviceFailure:
		return "DeviceFailure"
	default:
		return fmt.Sprintf("Exception%d", c)
	}
}
