package main

import (
	"testing"

	"github.com/gopcua/opcua/ua"

	dmi "github.com/petiole-io/petiole/devices/dmi/v1beta1"
)

// TestCommandIsWrittenOnceInAnyCase: the value of a command is written even if the variable
// has it, once for each command; a desired value is not.
func TestCommandIsWrittenOnceInAnyCase(t *testing.T) {
	told := func(stamp, command string) *dmi.Device {
		return &dmi.Device{Spec: &dmi.DeviceSpec{Properties: []*dmi.DeviceProperty{{Name: "speed", Desired: &dmi.TwinProperty{
			Value: "900", Metadata: map[string]string{"timestamp": stamp, "command": command},
		}}}}}
	}
	same := ua.MustVariant(int32(900))
	x := &device{}
	for _, c := range []struct {
		stamp, command string
		done, differs  bool
	}{{"1", "", false, false}, {"2", "true", false, true}, {"2", "true", true, true}, {"3", "true", false, true}, {"4", "", false, false}} {
		x.setDesired(told(c.stamp, c.command))
		w := x.desired["speed"]
		if w.done != c.done || w.mustWrite(same, same) != c.differs || !w.mustWrite(same, ua.MustVariant(int32(1))) {
			t.Errorf("%+v: %+v", c, w)
		}
		x.markDone("speed", w)
	}
}
