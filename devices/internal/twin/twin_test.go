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

// A status has since when a device responds, and no longer has it when it does not.
func TestOnlineSince(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	d := New(devices.Ref{Namespace: "ns", Name: "d"}, "n")
	d.Definition.Points, d.Twins = make([]devices.Point, 2), make([]Twin, 2)
	answers, silent := devices.Batch{Reachable: true}, devices.Batch{Reason: "Timeout"}
	for i, step := range []struct {
		batch devices.Batch
		since any
	}{
		{silent, nil},
		{answers, start.Add(time.Minute).Format(time.RFC3339)},
		{answers, start.Add(time.Minute).Format(time.RFC3339)},
		{devices.Batch{Reachable: true, Degraded: true, Reason: "SelfTest"}, start.Add(time.Minute).Format(time.RFC3339)},
		{silent, nil},
		{answers, start.Add(5 * time.Minute).Format(time.RFC3339)},
	} {
		step.batch.Time = start.Add(time.Duration(i) * time.Minute)
		d.UpdateHealth(step.batch, step.batch.Time)
		if got := d.Snapshot().Status(step.batch.Time).Status.Extensions.Data["onlineSince"]; got != step.since {
			t.Errorf("step %d: online since %v, expected %v", i, got, step.since)
		}
	}
	d.Definition.Report.Hidden = true
	if got, ok := d.Snapshot().Status(start).Status.Extensions.Data["onlineSince"]; ok {
		t.Errorf("hidden state: online since %v", got)
	}
	d.Restart(d.Definition, nil)
	d.Definition.Report.Hidden = false
	if got, ok := d.Snapshot().Status(start).Status.Extensions.Data["onlineSince"]; ok {
		t.Errorf("new session: online since %v", got)
	}
}
