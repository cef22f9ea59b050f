package host

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/petiole-io/petiole/devices"
)

func TestNextKeepsWhatIsSettled(t *testing.T) {
	recorded := map[string]desiredState{
		"same":    {Digest: "1", Version: "3", Ack: devices.Applied},
		"newer":   {Digest: "1", Version: "3", Ack: devices.Applied},
		"waiting": {Digest: "1", Version: "3", Ack: devices.Pending},
		"gone":    {Digest: "1", Version: "3", Ack: devices.Pending},
		"refused": {Digest: "1", Version: "3", Ack: devices.Rejected, Basis: "old", Reason: "r"},
		"still":   {Digest: "1", Version: "3", Ack: devices.Rejected, Basis: "new"},
	}
	now, superseded := mergeDesired([]devices.Desired{{Property: "same", Value: "v", Digest: "1"}, {Property: "newer", Value: "v", Digest: "2"}, {Property: "waiting", Value: "v", Digest: "2"}, {Property: "refused", Value: "v", Digest: "1"}, {Property: "still", Value: "v", Digest: "1"}}, "9", "new", recorded)
	for p, want := range map[string]desiredState{
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
		recorded := map[string]desiredState{}
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			var desired []devices.Desired
			for _, p := range []string{"a", "b", "c"} {
				if m := rapid.IntRange(0, 2).Draw(t, p); m > 0 {
					desired = append(desired, devices.Desired{Property: p, Value: "v", Digest: string(rune('0' + m))})
				}
			}
			now, _ := mergeDesired(desired, "1", "basis", recorded)
			again, superseded := mergeDesired(desired, "2", "basis", now)
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
