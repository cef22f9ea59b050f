package check

import (
	"slices"
	"testing"
	"time"

	"github.com/petiole-io/petiole/streams"
)

// TestEachInvariantCanBeViolated gives every checker a history that violates its
// invariant, and the same history as it should be.
func TestEachInvariantCanBeViolated(t *testing.T) {
	seen := func(uid string, counter int64) Event {
		return Event{Kind: Seen, Site: "a", Object: "pods x/y", UID: uid, Counter: counter, Owner: "a", Digest: time.Now().String(), Listed: true}
	}
	gone := Event{Kind: Gone, Site: "a", Object: "pods x/y", UID: "u"}
	restored := func(counter int64, objects map[string]int64) Event {
		return Event{Kind: Restored, Counter: counter, Objects: objects}
	}
	acked := func(n int64, seq uint64) Event {
		return Event{Kind: Acked, Site: "a", Source: "p", N: n, Seq: seq}
	}
	arrived := func(n int64) Event { return Event{Kind: Arrived, Site: "a", Source: "p", N: n} }
	unsure := func(n int64) Event { return Event{Kind: Unsure, Site: "a", Source: "p", N: n} }
	status := func(n int64, phase string) Event {
		return Event{Kind: Status, Site: "a", UID: "u", About: "u", N: n, Phase: phase}
	}
	published := func(version string, term int64) Event {
		return Event{Kind: Published, Subject: "s", UID: "u", Version: version, Epoch: "e", Term: term}
	}
	wrote := func(call, end time.Duration, term int64) Event {
		return Event{At: end, Kind: BridgeWrote, Subject: "/pods/y", Since: call, Term: term}
	}
	lost := Event{Kind: StoreLost, Site: "a"}
	lease := Event{Kind: Renewed, Site: "a", At: time.Minute}
	cut := Event{Kind: Unreachable, Site: "a", At: time.Second}
	poisoned := Event{Kind: Poisoned, Site: "a", Subject: "s"}
	same := seen("u", 5)
	same.Listed = false

	for _, c := range []struct {
		name, want string
		history    []Event
	}{
		{"versions grow", "", []Event{seen("u", 1), seen("u", 1), seen("u", 3)}},
		{"a version goes back", "I1", []Event{seen("u", 3), seen("u", 1)}},
		{"a version goes back to what was restored", "", []Event{seen("u", 3), restored(3, map[string]int64{"u": 1}), seen("u", 1), seen("u", 4)}},
		{"a version goes back twice after one restore", "I1", []Event{seen("u", 3), restored(3, map[string]int64{"u": 1}), seen("u", 1), seen("u", 4), seen("u", 1)}},
		{"a version goes back further than was restored", "I1", []Event{seen("u", 3), restored(3, map[string]int64{"u": 2}), seen("u", 1)}},
		{"a version goes back with the disk", "", []Event{seen("u", 3), lost, seen("u", 1)}},
		{"a version goes back in DESIRED", "I1", []Event{published("7", 1), published("6", 1)}},
		{"a deleted object comes back", "I3", []Event{seen("u", 1), gone, seen("u", 1)}},
		{"a deleted object is restored", "", []Event{seen("u", 1), gone, restored(1, map[string]int64{"u": 1}), seen("u", 1)}},
		{"a recreated object waits", "", []Event{seen("u", 1), gone, seen("v", 2)}},
		{"a recreated object does not wait", "I5", []Event{seen("u", 1), seen("v", 2)}},
		{"an object of another site", "I6", []Event{{Kind: Seen, Site: "a", Object: "pods x/y", UID: "u", Owner: "b"}}},
		{"a change that is none", "I9", []Event{same, same}},
		{"records arrive twice", "", []Event{acked(1, 1), acked(2, 2), arrived(1), arrived(2), arrived(1), arrived(2)}},
		{"a record is lost", "I11", []Event{acked(1, 1), acked(2, 2), arrived(2)}},
		{"a record is lost and reported", "", []Event{acked(1, 1), acked(2, 2), arrived(2), {Kind: GapReported, Site: "a", Stream: siteTelemetry, From: 1, To: 1}}},
		{"a record is reported as lost that is not", "I11", []Event{acked(1, 1), {Kind: GapReported, Site: "a", Stream: siteTelemetry, From: 1, To: 1, What: streams.GapLost}, arrived(1)}},
		{"a record is reported as lost after the damage", "I11", []Event{lost, {Kind: Acked, At: time.Second, Site: "a", Source: "p", N: 1, Seq: 1}, {Kind: GapReported, Site: "a", Stream: siteTelemetry, From: 1, To: 1, What: streams.GapLost}, arrived(1)}},
		{"a record is lost with a damaged stream and reported", "", []Event{acked(1, 1), {Kind: StoreLost, Site: "a", Stream: siteTelemetry}, {Kind: GapReported, Site: "a", Stream: siteTelemetry, From: 1, To: 1, What: streams.GapLost}}},
		{"a record is lost with the disk", "", []Event{acked(1, 1), lost}},
		{"a record is lost after the disk", "I11", []Event{lost, {Kind: Acked, At: time.Second, Site: "a", Source: "p", N: 1}}},
		{"a record is lost with another stream", "I11", []Event{acked(1, 1), {Kind: StoreLost, Site: "a", Stream: "SITE_DESIRED"}}},
		{"records change places", "I11", []Event{acked(1, 1), acked(2, 2), arrived(2), arrived(1)}},
		{"a record without an answer comes late", "", []Event{unsure(1), acked(2, 1), arrived(2), arrived(1)}},
		{"records change places after a late one", "I11", []Event{unsure(1), acked(2, 1), acked(3, 2), arrived(3), arrived(1), arrived(2)}},
		{"a status goes back", "I12", []Event{status(2, ""), status(1, "")}},
		{"a status of another pod", "I13", []Event{{Kind: Status, UID: "u", About: "v"}}},
		{"an ended pod runs", "I14", []Event{status(1, "Succeeded"), status(2, "Running")}},
		{"restarts fall", "I14", []Event{{Kind: Status, UID: "u", Restarts: 2}, {Kind: Status, UID: "u", Restarts: 1}}},
		{"a lease of a silent site", "I16", []Event{cut, lease}},
		{"a lease of a site that is back", "", []Event{cut, {Kind: Reachable, Site: "a", At: 2 * time.Second}, lease}},
		{"terms grow", "", []Event{wrote(1, 2, 1), wrote(3, 4, 2), published("1", 1), published("2", 2)}},
		{"writes of two terms at once", "", []Event{wrote(1, 4, 2), wrote(2, 3, 1)}},
		{"an old leader writes", "I26", []Event{wrote(1, 2, 2), wrote(3, 4, 1)}},
		{"an old leader publishes", "I26", []Event{published("1", 2), published("2", 1)}},
		{"poison is set aside", "", []Event{poisoned, {Kind: Quarantined, Site: "a", Subject: "s"}}},
		{"poison is lost", "I10", []Event{poisoned}},
		{"a container lives on", "", []Event{{Kind: Runs, Digest: "c"}, {Kind: Runs, Digest: "c"}}},
		{"a container is replaced", "I18", []Event{{Kind: Runs, Digest: "c"}, {Kind: Runs, Digest: "d"}}},
		{"a process crashes", "I34", []Event{{Kind: Crashed}}},
		{"a slow line carries its backlog", "", []Event{{Kind: Carried, N: 3, From: 7, To: 8}}},
		{"a slow line carries nothing", "I37", []Event{{Kind: Carried, N: 3, From: 7, To: 7}}},
		{"a site differs", "I2", []Event{{Kind: Diverged}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := NewJudge()
			var found []Violation
			for _, e := range c.history {
				found = append(found, j.Observe(e)...)
			}
			found = append(found, j.Finish()...)
			if c.want == "" && len(found) > 0 || c.want != "" && !slices.ContainsFunc(found, func(v Violation) bool { return v.Invariant == c.want }) {
				t.Errorf("violations %v, want %q", found, c.want)
			}
			if len(found) > 1 {
				t.Errorf("more than one violation: %v", found)
			}
		})
	}
}
