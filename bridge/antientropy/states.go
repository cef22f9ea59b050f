package antientropy

import (
	"maps"
	"sync"
	"time"

	"github.com/petiole-io/petiole/streams/inventory"
)

// State is the state of a site's comparisons and resyncs.
type State struct {
	// LastCheck is the time of the last completed comparison and Outcome its result; zero
	// before the first.
	LastCheck time.Time
	Outcome   inventory.State
	// Mismatches counts the comparisons that found a difference since this bridge became
	// leader.
	Mismatches uint64
	// Resynced is the time of the last full resync and ResyncReason its reason; zero if there
	// was none since this bridge became leader.
	Resynced     time.Time
	ResyncReason string
	// ResyncRequested is the last value of v1alpha1.ResyncAnnotation that was acted upon.
	ResyncRequested string

	// MismatchesInRow counts the mismatches since the last comparison without a difference.
	MismatchesInRow int
}

// The reasons of a full resync.
const (
	// ResyncRequested: v1alpha1.ResyncAnnotation was set.
	ResyncRequested = "Requested"
	// ResyncMismatch: the site still differed after a repair.
	ResyncMismatch = "RepeatedMismatch"
)

// Hooks are called when the state of a site changes. None may block.
type Hooks struct {
	// Changed is called after each update, Checked for each comparison and Resynced for each
	// full resync.
	Changed  func()
	Checked  func(outcome inventory.State)
	Resynced func(reason string)
}

// States holds the State of each site. It does no I/O, reads no clock, and is safe for
// concurrent use.
type States struct {
	hooks Hooks
	mu    sync.Mutex
	sites map[string]*State
}

// NewStates returns an empty set. All hooks must be set.
func NewStates(hooks Hooks) *States { return &States{hooks: hooks, sites: map[string]*State{}} }

// Get returns the state of a site.
func (r *States) Get(site string) State {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sites[site]; s != nil {
		return *s
	}
	return State{}
}

// Checked records the outcome of a comparison.
func (r *States) Checked(site string, at time.Time, outcome inventory.State) {
	r.hooks.Checked(outcome)
	r.update(site, func(s *State) {
		s.LastCheck, s.Outcome = at, outcome
		if outcome == inventory.Equal {
			s.MismatchesInRow = 0
		}
	})
}

// Mismatch counts a comparison that found a difference. It returns the number of mismatches
// in a row.
func (r *States) Mismatch(site string) (inRow int) {
	r.update(site, func(s *State) {
		s.Mismatches++
		s.MismatchesInRow++
		inRow = s.MismatchesInRow
	})
	return inRow
}

// Resynced records a full resync. value is that of v1alpha1.ResyncAnnotation, empty if the
// resync was not requested.
func (r *States) Resynced(site string, at time.Time, reason, value string) {
	r.hooks.Resynced(reason)
	r.update(site, func(s *State) {
		s.Resynced, s.ResyncReason = at, reason
		if value != "" {
			s.ResyncRequested = value
		}
	})
}

// update changes the state of a site.
func (r *States) update(site string, change func(*State)) {
	r.mu.Lock()
	s := r.sites[site]
	if s == nil {
		s = &State{}
		r.sites[site] = s
	}
	change(s)
	r.mu.Unlock()
	r.hooks.Changed()
}

// Forget drops a deleted site.
func (r *States) Forget(site string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sites, site)
}

// Retain drops the sites that no longer exist.
func (r *States) Retain(exists func(site string) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.sites, func(site string, _ *State) bool { return !exists(site) })
}
