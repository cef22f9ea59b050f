package desired

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/internal/stats"
)

func TestNextKeepsWhatIsSettled(t *testing.T) {
	recorded := map[string]State{
		"same":    {Digest: "1", Version: "3", Ack: devices.Applied},
		"newer":   {Digest: "1", Version: "3", Ack: devices.Applied},
		"waiting": {Digest: "1", Version: "3", Ack: devices.Pending},
		"gone":    {Digest: "1", Version: "3", Ack: devices.Pending},
		"refused": {Digest: "1", Version: "3", Ack: devices.Rejected, Basis: "old", Reason: "r"},
		"still":   {Digest: "1", Version: "3", Ack: devices.Rejected, Basis: "new"},
	}
	now, superseded := Merge([]devices.Desired{{Property: "same", Value: "v", Digest: "1"}, {Property: "newer", Value: "v", Digest: "2"}, {Property: "waiting", Value: "v", Digest: "2"}, {Property: "refused", Value: "v", Digest: "1"}, {Property: "still", Value: "v", Digest: "1"}}, "9", "new", recorded)
	for p, want := range map[string]State{
		"same":    {Digest: "1", Version: "3", Ack: devices.Applied},
		"newer":   {Digest: "2", Version: "9", Value: "v", Ack: devices.Pending},
		"waiting": {Digest: "2", Version: "9", Value: "v", Ack: devices.Pending},
		"refused": {Digest: "1", Version: "3", Ack: devices.Pending},
		"still":   {Digest: "1", Version: "3", Ack: devices.Rejected, Basis: "new"},
	} {
		if now[p] != want {
			t.Errorf("%s: %+v", p, now[p])
		}
	}
	if len(now) != 5 || len(superseded) != 2 || superseded["waiting"].Version != "3" || superseded["gone"].Version != "3" {
		t.Errorf("%v %v", now, superseded)
	}
}

// However desired values come and go, a settled one is pending again only when its
// mark or, after a refusal, the definition changed.
func TestNextIsIdempotent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		recorded := map[string]State{}
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			var desired []devices.Desired
			for _, p := range []string{"a", "b", "c"} {
				if m := rapid.IntRange(0, 2).Draw(t, p); m > 0 {
					desired = append(desired, devices.Desired{Property: p, Value: "v", Digest: string(rune('0' + m))})
				}
			}
			now, _ := Merge(desired, "1", "basis", recorded)
			again, superseded := Merge(desired, "2", "basis", now)
			if len(superseded) != 0 || len(again) != len(desired) {
				t.Fatal(superseded, again)
			}
			for p, c := range again {
				if c != now[p] {
					t.Fatalf("%s: %+v became %+v", p, now[p], c)
				}
			}
			for p, c := range now {
				c.Ack, c.Basis = rapid.SampledFrom([]devices.Ack{devices.Applied, devices.Rejected, devices.Pending, devices.Failed}).Draw(t, "ack"), "basis"
				now[p] = c
			}
			recorded = now
		}
	})
}

// However a device changes its value, an enforced one is written at most enforceTries
// times in a row, and never sooner than the pause after the last time.
func TestEnforcingIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.UnixMilli(1_000_000_000)
		c := State{Value: "1", Policy: devices.DriftEnforce, Ack: devices.Applied, Actual: "1", Time: now.UnixMilli()}
		inRow, last := 0, now
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(1, 900_000).Draw(t, "pause")) * time.Millisecond)
			held := c.Ack == devices.Applied && now.Sub(last) >= enforceHold
			c, _ = c.Compare(v1beta1.INT, fmt.Sprint(rapid.IntRange(1, 2).Draw(t, "value")), now, now)
			if held && c.Ack == devices.Drifted {
				inRow = 0
			}
			since, waits := c.Waits()
			if !waits || now.Before(since) {
				continue
			}
			if inRow++; inRow > enforceTries {
				t.Fatalf("written again %d times in a row", inRow)
			}
			if inRow > 1 && now.Sub(last) < enforcePause(inRow-1) {
				t.Fatalf("%s after the one before", now.Sub(last))
			}
			c.Ack, c.Reason, c.Time, c.Due, last = devices.Applied, devices.ReasonEnforced, now.UnixMilli(), 0, now
		}
	})
	c := State{Policy: devices.DriftEnforce, Ack: devices.Applied, Actual: "1", Enforced: enforceTries, Time: 1000}
	c, _ = c.Compare(v1beta1.INT, "2", time.UnixMilli(2000), time.UnixMilli(2000))
	if _, waits := c.Waits(); waits || c.Ack != devices.Drifted || c.Reason != devices.ReasonEnforceEnded {
		t.Fatalf("%+v", c)
	}
	if c = c.AfterReturn(); c.Enforced != 0 || c.Reason != devices.ReasonDrifted {
		t.Fatalf("%+v", c)
	}
	if _, waits := c.Waits(); !waits {
		t.Fatal("not tried after the device came back")
	}
}

// A reading from before a write was settled says nothing of it.
func TestOldReadingIsNoDrift(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := State{
			Value: "1", Ack: rapid.SampledFrom(stats.Acks).Draw(t, "ack"), Actual: "1", Time: 1000,
			Policy: rapid.SampledFrom([]devices.DriftPolicy{devices.DriftOnce, devices.DriftEnforce}).Draw(t, "policy"),
		}
		at := time.UnixMilli(int64(rapid.IntRange(1, 2000).Draw(t, "at")))
		is, changed := c.Compare(v1beta1.INT, rapid.SampledFrom([]string{"1", "2"}).Draw(t, "value"), at, at)
		if changed != (is != c) || changed && (at.UnixMilli() <= c.Time || c.Ack != devices.Applied && c.Ack != devices.Drifted) {
			t.Fatalf("%+v became %+v at %s", c, is, at)
		}
	})
}

func TestSameValue(t *testing.T) {
	for _, c := range []struct {
		typ  v1beta1.PropertyType
		a, b string
		same bool
	}{
		{v1beta1.INT, "5", "5.0", true},
		{v1beta1.INT, "5", "6", false},
		{v1beta1.FLOAT, "0.1", "0.10000000149", true},
		{v1beta1.DOUBLE, "0.1", "0.10000000149", false},
		{v1beta1.DOUBLE, "1e2", "100", true},
		{v1beta1.BOOLEAN, "on", "true", true},
		{v1beta1.BYTES, "0A", "0a", true},
		{v1beta1.STRING, "A", "a", false},
		{v1beta1.INT, "x", "5", false},
	} {
		if sameValue(c.typ, c.a, c.b) != c.same || sameValue(c.typ, c.b, c.a) != c.same {
			t.Errorf("%+v", c)
		}
	}
}
