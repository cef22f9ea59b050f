package bridge

import (
	"maps"
	"sync"
	"time"

	"github.com/petiole-io/petiole/streams"
)

// siteRepair is what is known of a site's comparisons and resyncs.
type syncState struct {
	// LastCheck is when the site last asked for a comparison that was carried out, and
	// Outcome what came of it; zero before the first.
	LastCheck time.Time
	Outcome   streams.InventoryState
	// Mismatches counts the comparisons that found a difference, since this bridge leads.
	Mismatches uint64
	// Resynced is when the site was last told to take everything anew, and ResyncReason
	// why; zero when it has not been since this bridge leads.
	Resynced     time.Time
	ResyncReason string
	// ResyncRequested is the value of v1alpha1.ResyncAnnotation that was carried out last.
	ResyncRequested string

	// inRow counts the mismatches since the site was last found equal.
	mismatchesInRow int
}

// The reasons of a full resync.
const (
	// ResyncRequested: somebody set v1alpha1.ResyncAnnotation.
	ResyncRequested = "Requested"
	// ResyncMismatch: the site differed again after what differed had been repaired.
	ResyncMismatch = "RepeatedMismatch"
)

// repairs holds what is known of each site's comparisons. It does no I/O, reads no
// clock, and is safe for concurrent use.
type syncStates struct {
	mu    sync.Mutex
	sites map[string]*syncState
	// changed is told when what is known of a site has changed; it must not block. It is
	// set before the first use.
	onChange func(site string)
}

func newSyncStates() *syncStates {
	return &syncStates{sites: map[string]*syncState{}, onChange: func(string) {}}
}

// of is what is known of a site.
func (r *syncStates) get(site string) syncState {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sites[site]; s != nil {
		return *s
	}
	return syncState{}
}

// update changes what is known of a site.
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

// forget drops a site that is gone.
func (r *syncStates) forget(site string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sites, site)
}

// retain drops the sites that are gone.
func (r *syncStates) retain(exists func(site string) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.sites, func(site string, _ *syncState) bool { return !exists(site) })
}
