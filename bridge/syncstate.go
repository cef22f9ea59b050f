package bridge

import (
	"maps"
	"sync"
	"time"

	"github.com/petiole-io/petiole/streams"
)

// syncState is the state of a site's comparisons and resyncs.
type syncState struct {
	// LastCheck is the time of the last completed comparison and Outcome its result; zero
	// before the first.
	LastCheck time.Time
	Outcome   streams.InventoryState
	// Mismatches counts the comparisons that found a difference since this bridge became
	// leader.
	Mismatches uint64
	// Resynced is the time of the last full resync and ResyncReason its reason; zero if there
	// was none since this bridge became leader.
	Resynced     time.Time
	ResyncReason string
	// ResyncRequested is the last value of v1alpha1.ResyncAnnotation that was acted upon.
	ResyncRequested string

	// mismatchesInRow counts the mismatches since the last comparison without a difference.
	mismatchesInRow int
}

// The reasons of a full resync.
const (
	// ResyncRequested: v1alpha1.ResyncAnnotation was set.
	ResyncRequested = "Requested"
	// ResyncMismatch: the site still differed after a repair.
	ResyncMismatch = "RepeatedMismatch"
)

// syncStates holds the syncState of each site. It does no I/O, reads no clock, and is safe for
// concurrent use.
type syncStates struct {
	mu    sync.Mutex
	sites map[string]*syncState
	// onChange is called after each update and must not block. It is set before the first use.
	onChange func(site string)
	// onCheck and onResync are called for each comparison and each full resync, like onChange.
	onCheck  func(outcome streams.InventoryState)
	onResync func(reason string)
}

func newSyncStates() *syncStates {
	return &syncStates{
		sites: map[string]*syncState{}, onChange: func(string) {},
		onCheck: func(streams.InventoryState) {}, onResync: func(string) {},
	}
}

// get returns the state of a site.
func (r *syncStates) get(site string) syncState {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sites[site]; s != nil {
		return *s
	}
	return syncState{}
}

// checked records the outcome of a comparison.
func (r *syncStates) checked(site string, at time.Time, outcome streams.InventoryState) {
	r.onCheck(outcome)
	r.update(site, func(s *syncState) {
		s.LastCheck, s.Outcome = at, outcome
		if outcome == streams.InventoryEqual {
			s.mismatchesInRow = 0
		}
	})
}

// mismatch counts a comparison that found a difference. It returns the number of mismatches
// in a row.
func (r *syncStates) mismatch(site string) (inRow int) {
	r.update(site, func(s *syncState) {
		s.Mismatches++
		s.mismatchesInRow++
		inRow = s.mismatchesInRow
	})
	return inRow
}

// resynced records a full resync. value is that of v1alpha1.ResyncAnnotation, empty if the
// resync was not requested.
func (r *syncStates) resynced(site string, at time.Time, reason, value string) {
	r.onResync(reason)
	r.update(site, func(s *syncState) {
		s.Resynced, s.ResyncReason = at, reason
		if value != "" {
			s.ResyncRequested = value
		}
	})
}

// update changes the state of a site.
func (r *syncStates) update(site string, change func(*syncState)) {
	r.mu.Lock()
	s := r.sites[site]
	if s == nil {
		s = &syncState{}
		r.sites[site] = s
	}
	change(s)
	r.mu.Unlock()
	r.onChange(site)
}

// forget drops a deleted site.
func (r *syncStates) forget(site string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sites, site)
}

// retain drops the sites that no longer exist.
func (r *syncStates) retain(exists func(site string) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.sites, func(site string, _ *syncState) bool { return !exists(site) })
}
