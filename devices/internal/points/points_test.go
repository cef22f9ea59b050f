package points

import (
	"testing"

	"github.com/petiole-io/petiole/devices"
)

// TestPointsAreShared: devices with equal points have the same ones, devices whose points differ in
// anything have their own, and nothing is kept of devices that are gone.
func TestPointsAreShared(t *testing.T) {
	define := func(register string, deadband float64) *devices.Definition {
		return &devices.Definition{Points: []devices.Point{{
			Name: "p", Visitor: devices.Settings{"register": register}, Reporting: devices.Reporting{Deadband: deadband},
		}}}
	}
	var sets Sets
	share := func(def *devices.Definition) *User {
		u := sets.User()
		u.Share(def)
		return &u
	}
	a, b, other, deadband := define("1", 0), define("1", 0), define("2", 0), define("1", 5)
	users := []*User{share(a), share(b), share(other), share(deadband), share(&devices.Definition{})}
	if &a.Points[0] != &b.Points[0] {
		t.Error("equal points are kept twice")
	}
	if got := other.Points[0].Visitor["register"]; got != "2" {
		t.Errorf("the register is %v", got)
	}
	if got := deadband.Points[0].Reporting.Deadband; got != 5 {
		t.Errorf("the deadband is %v", got)
	}
	changed := define("3", 0)
	users[0].Share(changed)
	again := define("1", 0)
	if users = append(users, share(again)); &again.Points[0] != &b.Points[0] {
		t.Error("points of a device that is still there were given up")
	}
	none := sets.User()
	none.Release()
	for _, u := range users {
		u.Release()
	}
	if len(sets.sets) != 0 {
		t.Errorf("%d sets are left", len(sets.sets))
	}
}
