package bridge

import (
	"testing"

	"github.com/petiole-io/petiole/streams"
)

// A limited number of a site's reports waits for the API server; a newer report of an object
// replaces the older one.
func TestWaitingReportsAreCounted(t *testing.T) {
	t.Parallel()
	r := newReports()
	k := func(name string) reportKey {
		return reportKey{"plant-a", streams.Ref{Node: "n", Resource: "pods", Namespace: "d", Name: name}}
	}
	r.put(k("a"), &report{seq: 1, pending: true})
	r.put(k("a"), &report{seq: 2, pending: true})
	r.put(k("b"), &report{seq: 3, pending: true})
	r.put(k("old"), &report{seq: 4})
	if n := maxWaiting - r.room("plant-a"); n != 2 {
		t.Errorf("%d wait, want 2", n)
	}
	r.waitForNode(k("a"), 1)
	r.waitForNode(k("a"), 2)
	r.waitForNode(k("a"), 2)
	r.resolve(k("b"), 3, true)
	if n := maxWaiting - r.room("plant-a"); n != 0 || len(r.waiting) != 0 {
		t.Errorf("%d wait, want none: %v", n, r.waiting)
	}
	if !r.has(k("a"), 2) || r.has(k("a"), 3) || r.has(k("b"), 3) {
		t.Error("what is held is not what is known")
	}
	r.put(k("a"), &report{seq: 5, pending: true})
	if n := maxWaiting - r.room("plant-a"); n != 1 {
		t.Errorf("%d wait after a parked report was replaced, want 1", n)
	}
}
