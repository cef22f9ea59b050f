package modbus

import (
	"testing"
	"time"

	"github.com/petiole-io/petiole/devices"
)

func TestDescribe(t *testing.T) {
	def := devices.Definition{Device: devices.Ref{Namespace: "ns", Name: "a"}, Config: devices.Settings{"ip": "10.0.0.1", "forbidden": "input:30-31", "retires": 3}, Points: []devices.Point{
		{Name: "a", Type: "INT", Cycle: time.Second, Visitor: devices.Settings{"register": "HoldingRegister", "offset": 0}},
		{Name: "b", Type: "INT", Cycle: time.Second, Visitor: devices.Settings{"register": "HoldingRegister", "offset": 9}},
		{Name: "c", Type: "INT", Cycle: 100 * time.Millisecond, Visitor: devices.Settings{"register": "InputRegister", "offset": 9}},
		{Name: "d", Type: "INT", Cycle: time.Second, Visitor: devices.Settings{"register": "Nowhere"}},
	}}
	second := def // another device of the same unit costs nothing more
	second.Device.Name = "b"
	plans, found := Describe(def, second)
	if len(plans) != 1 || len(found) != 4 || !found[1].Warning || found[1].Message != "retires is not a setting of the driver; did you mean retries?" {
		t.Fatalf("%+v %+v", plans, found)
	}
	p := plans[0]
	if len(p.Requests) != 2 || p.Requests[1].Count != 10 || len(p.Requests[1].Points) != 4 || p.Requests[1].Function != 3 || p.Requests[0].Function != 4 ||
		p.Endpoint != "tcp://10.0.0.1:502" || p.Cycle <= 0 || p.Utilisation <= 0 || p.Utilisation > 0.1 || len(p.Classes) != 2 || p.Holes[0] != "input:30-31" {
		t.Fatalf("%+v", p)
	}
}
