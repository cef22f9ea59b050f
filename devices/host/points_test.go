package host

import (
	"testing"

	"github.com/petiole-io/petiole/devices"
)

// TestPointsAreShared: devices with equal points have the same ones, devices whose points differ in
// anything have their own, and nothing is kept of devices that are gone.
func TestPointsAreShared(t *testing.T) {
	points := func(register string, deadband float64) *devices.Definition {
		return &devices.Definition{Points: []devices.Point{{
			Name: "p", Visitor: devices.Settings{"register": register}, Reporting: devices.Reporting{Deadband: deadband},
		}}}
	}
	var s sharedPoints
	a, b, other, deadband := points("1", 0), points("1", 0), points("2", 0), points("1", 5)
	sets := []*pointSet{s.take(a), s.take(b), s.take(other), s.take(deadband), s.take(&devices.Definition{})}
	if &a.Points[0] != &b.Points[0] {
		t.Error("equal points are kept twice")
	}
	if got := other.Points[0].Visitor["register"]; got != "2" {
		t.Errorf("the register is %v", got)
	}
	if got := deadband.Points[0].Reporting.Deadband; got != 5 {
		t.Errorf("the deadband is %v", got)
	}
	s.release(sets[0])
	c := points("1", 0)
	if sets = append(sets, s.take(c)); &c.Points[0] != &b.Points[0] {
		t.Error("points of a device that is still there were given up")
	}
	for _, set := range sets[1:] {
		s.release(set)
	}
	s.release(nil)
	if len(s.sets) != 0 {
		t.Errorf("%d sets are left", len(s.sets))
	}
}
