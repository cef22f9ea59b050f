package twin

import (
	"testing"
	"time"

	"github.com/petiole-io/petiole/devices"
)

// While the wall clock catches up after a small step back, times stand still.
func TestTimesStandStill(t *testing.T) {
	now := time.Now()
	ahead := now.Add(5 * time.Second).UnixMilli()
	w := Twin{lastSample: ahead, seen: now.Add(-time.Second)}
	if !w.observe(devices.Reading{Value: devices.Int(1), Quality: devices.Good, Time: now}) || w.lastSample != ahead || w.Text != "1" {
		t.Fatalf("%+v", w)
	}
}
