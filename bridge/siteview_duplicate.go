package bridge

import (
	"maps"
	"sync"
	"time"
)

// duplicateWindow is within which time two boots must alternate for them to be two
// leaves: one leaf that was restarted never returns to an earlier boot.
const duplicateWindow = time.Minute

// boots knows which boot of its leaf each site was heard of, and so whether there are
// two of one name. It does no I/O, reads no clock, and is safe for concurrent use.
type boots struct {
	mu    sync.Mutex
	sites map[string]*bootsOf
}

type bootsOf struct {
	current, former   string
	currentAt         time.Time
	formerAt, doubled time.Time
}

func newBoots() *boots { return &boots{sites: map[string]*bootsOf{}} }

// beat takes in a heartbeat.
func (b *boots) beat(site, boot string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sites[site]
	if s == nil {
		s = &bootsOf{}
		b.sites[site] = s
	}
	if boot != s.current {
		if boot == s.former && boot != "" && now.Sub(s.formerAt) < duplicateWindow {
			s.doubled = now
		}
		s.former, s.formerAt, s.current = s.current, s.currentAt, boot
	}
	s.currentAt = now
}

// doubled is when two leaves of the site were last heard to alternate, zero for never.
func (b *boots) doubled(site string) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.sites[site]; s != nil {
		return s.doubled
	}
	return time.Time{}
}

// retain drops the sites that are gone.
func (b *boots) retain(exists func(site string) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.sites, func(site string, _ *bootsOf) bool { return !exists(site) })
}
