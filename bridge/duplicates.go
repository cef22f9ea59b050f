package bridge

import (
	"maps"
	"sync"
	"time"
)

// Two boot IDs that alternate within duplicateWindow mean two leaves share one identity: a
// leaf that restarts never returns to an earlier boot ID.
const duplicateWindow = time.Minute

// duplicateDetector detects two leaves that use the name of one site, by their boot IDs. It
// does no I/O, reads no clock, and is safe for concurrent use.
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

// heartbeat records the boot ID of a heartbeat.
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

// duplicateSeen returns when two leaves of the site were last seen, zero if never.
func (b *duplicateDetector) duplicateSeen(site string) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.sites[site]; s != nil {
		return s.duplicateAt
	}
	return time.Time{}
}

// retain drops the sites that no longer exist.
func (b *duplicateDetector) retain(exists func(site string) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.sites, func(site string, _ *bootHistory) bool { return !exists(site) })
}
