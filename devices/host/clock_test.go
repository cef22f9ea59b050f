package host

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/devicestest"
	"github.com/petiole-io/petiole/devices/host/hosttest"
	"github.com/petiole-io/petiole/devices/internal/desired"
)

// unknownTime is the clock of a gateway that is in 1970.
type unknownTime struct{ hosttest.Clock }

func (*unknownTime) Until(time.Time) (time.Duration, bool) { return 0, false }

// idleWorker returns a worker that does not run, of a device with one desired value.
func idleWorker(t *testing.T, c Clock, state desired.State) *worker {
	t.Helper()
	h, err := New(Config{Node: "n", Sink: &recordingSink{}, State: &devicestest.State{}, Clock: c, Log: zaptest.NewLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorker(h, devices.Ref{Namespace: "ns", Name: "d"})
	w.facts.SetDefinition(devices.Definition{Points: []devices.Point{{Name: "a", Type: v1beta1.INT}}})
	w.facts.Desired = map[string]desired.State{"a": state}
	return w
}

// TestClockThatIsSetMovesWhatIsDue: a watchdog is written on while the clock is set back by an hour, or
// ahead by years, and not all at once.
func TestClockThatIsSetMovesWhatIsDue(t *testing.T) {
	for _, by := range []time.Duration{-time.Hour, time.Hour, 12 * 365 * 24 * time.Hour} {
		now := time.Now()
		w := idleWorker(t, &hosttest.Clock{}, desired.State{Ack: devices.Applied, Rewrite: 30_000, Due: now.Add(20 * time.Second).Add(by).UnixMilli(), Time: now.Add(by).UnixMilli()})
		w.desired.clock.Offset = by // the clock was ahead by that until now
		followClock(w.desired, now)
		c := w.desired.facts.Desired["a"]
		if due := time.UnixMilli(c.Due).Sub(now); (due - 20*time.Second).Abs() > time.Minute {
			t.Errorf("set by %s: due in %s", -by, due)
		}
		if at := now.Sub(time.UnixMilli(c.Time)); at.Abs() > time.Minute {
			t.Errorf("set by %s: concluded %s ago", -by, at)
		}
		if w.desired.workAt.After(now) {
			t.Errorf("set by %s: looked at in %s", -by, w.desired.workAt.Sub(now))
		}
		followClock(w.desired, now)
		if w.desired.facts.Desired["a"] != c {
			t.Error("moved twice")
		}
	}
}

// TestStateOfAnotherTime: what is due years ahead was recorded by a clock that is no longer.
func TestStateOfAnotherTime(t *testing.T) {
	now := time.Now()
	c := desired.State{Ack: devices.Applied, Rewrite: 30_000, Due: now.AddDate(12, 0, 0).UnixMilli(), Time: now.AddDate(12, 0, 0).UnixMilli()}.AfterStart(now)
	if due := time.UnixMilli(c.Due).Sub(now); due > 6*time.Minute || c.Time > now.UnixMilli() {
		t.Errorf("due in %s, concluded at %s", due, time.UnixMilli(c.Time))
	}
	soon := desired.State{Rewrite: 3_600_000, Due: now.Add(50 * time.Minute).UnixMilli(), Time: 5}
	if soon.AfterStart(now) != soon {
		t.Error("a state of this time is changed")
	}
}

// TestExpiryWaitsForTheTime: while the time is not known a value that expires is neither written nor
// has it expired.
func TestExpiryWaitsForTheTime(t *testing.T) {
	now := time.Now()
	pending := desired.State{Ack: devices.Pending, Expires: now.Add(-time.Hour).UnixMilli()}
	w := idleWorker(t, &unknownTime{}, pending)
	if w.desired.tryWrite(t.Context(), "a", now) || w.desired.facts.Desired["a"] != pending {
		t.Errorf("%+v", w.desired.facts.Desired["a"])
	}
	if at := w.desired.workAt; !at.After(now) || at.Sub(now) > time.Minute {
		t.Errorf("looked at again in %s", at.Sub(now))
	}
	w = idleWorker(t, &hosttest.Clock{}, pending)
	if w.desired.tryWrite(t.Context(), "a", now) || w.desired.facts.Desired["a"].Ack != devices.Expired {
		t.Errorf("%+v", w.desired.facts.Desired["a"])
	}
}

// TestEnforcementEndsByTheRightTime: a value that has drifted is enforced while it has not expired by the
// right clock, whatever the wall clock says, and no longer.
func TestEnforcementEndsByTheRightTime(t *testing.T) {
	for left, want := range map[time.Duration]string{time.Hour: devices.ReasonDrifted, -time.Second: devices.ReasonEnforceEnded} {
		now := time.Now()
		applied := desired.State{Value: "1", Ack: devices.Applied, Policy: devices.DriftEnforce, Actual: "1", Expires: now.Add(-24 * time.Hour).UnixMilli()}
		is, changed := applied.Compare(v1beta1.INT, "2", now, now)
		if !changed || is.Reason != devices.ReasonDrifted {
			t.Fatalf("a comparison judges by the wall clock: %+v", is)
		}
		w := idleWorker(t, &timeLeftIs{left: left}, is)
		w.desired.tryWrite(t.Context(), "a", now.Add(time.Hour))
		c := w.desired.facts.Desired["a"]
		if ended := strings.HasSuffix(c.Message, expiredSuffix); c.Reason != want || ended != (want == devices.ReasonEnforceEnded) {
			t.Errorf("%s left: %+v, want %s", left, c, want)
		}
	}
}

// timeLeftIs is a clock by which so much time is left until any time.
type timeLeftIs struct {
	hosttest.Clock
	left time.Duration
}

func (c *timeLeftIs) Until(time.Time) (time.Duration, bool) { return c.left, true }
