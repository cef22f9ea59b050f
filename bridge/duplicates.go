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
type duplicateDetector struct {
	mu    sync.Mutex
	sites map[string]*bootHistory
}

type bootHistory struct {
	current, former       string
	currentAt             time.Time
	formerAt, duplicateAt time.Time
}

func newDuplicateDetector() *duplicateDetector {
	return &duplicateDetector{sites: map[string]*bootHistory{}}
}

// beat takes in a heartbeat.
func (b *duplicateDetector) heartbeat(site, boot string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sites[site]
	if s == nil {
		s = &bootHistory{}
		b.sites[site] = s
	}
	if boot != s.current {
		if boot == s.former && boot != "" && now.Sub(s.formerAt) < duplicateWindow {
			s.duplicateAt = now
		}
		s.former, s.formerAt, s.current = s.current, s.currentAt, boot
	}
	s.currentAt = now
}

// doubled is when two leaves of the site were last heard to alternate, zero for never.
func (b *duplicateDetector) duplicateSeen(site string) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.sites[site]; s != nil {
		return s.duplicateAt
	}
	return time.Time{}
}

// retain drops the sites that are gone.
func (b *duplicateDetector) retain(exists func(site string) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.sites, func(site string, _ *bootHistory) bool { return !exists(site) })
}
