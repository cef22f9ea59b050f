package field

import (
	"testing"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/push"
)

// protocols is a driver that only has names.
type protocols struct {
	devices.Driver
	names []string
}

func (p protocols) Protocols() []string { return p.names }

// A push method that the leaf does not support is a problem of a device that the leaf operates
// itself. A mapper may carry it out.
func TestUnsupportedPushMethodsOfMappers(t *testing.T) {
	own, mappers := protocols{names: []string{"modbus"}}, protocols{names: []string{devices.AnyProtocol}}
	for _, c := range []struct {
		protocol string
		drivers  []devices.Driver
		want     int
	}{
		{"Modbus", []devices.Driver{own, mappers}, 1},
		{"modbus", []devices.Driver{mappers}, 0}, // mapperProtocols: [modbus]
		{"onvif", []devices.Driver{own, mappers}, 0},
		{"onvif", []devices.Driver{own}, 1},
		{"", []devices.Driver{own, mappers}, 1},
	} {
		s := &sink{pusher: push.New(push.Config{}), drivers: c.drivers}
		d := &v1beta1.Device{}
		d.Namespace, d.Name = "ns", "d"
		d.Spec.Protocol.ProtocolName = c.protocol
		d.Spec.Properties = []v1beta1.DeviceProperty{
			{Name: "a", PushMethod: &v1beta1.PushMethod{DBMethod: &v1beta1.DBMethodConfig{}}},
			{Name: "b", PushMethod: &v1beta1.PushMethod{HTTP: &v1beta1.PushMethodHTTP{}}}, // without a host: the leaf carries it out for all
		}
		unsupported, invalid := 0, 0
		for _, p := range s.setDevice(d) {
			switch p.Reason {
			case push.ReasonUnsupported:
				unsupported++
			case push.ReasonInvalid:
				invalid++
			}
		}
		if unsupported != c.want || invalid != 1 {
			t.Errorf("%q with %d drivers: %d unsupported methods, want %d; %d invalid ones, want 1", c.protocol, len(c.drivers), unsupported, c.want, invalid)
		}
	}
}
