package liveness

import (
	"maps"
	"sync"
	"time"
)

// Two boot IDs that alternate within duplicateWindow mean two leaves share one identity: a
// leaf that restarts never returns to an earlier boot ID.
const duplicateWindow = time.Minute

// DuplicateDetector detects two leaves that use the name of one site, by their boot IDs. It
// does no I/O, reads no clock, and is safe for concurrent use.
type DuplicateDetector struct {
	mu    sync.Mutex
	sites map[string]*bootHistory
}

type bootHistory struct {
	current, former       string
	currentAt             time.Time
	formerAt, duplicateAt time.Time
}

// NewDuplicateDetector returns a detector that has seen no site.
func NewDuplicateDetector() *DuplicateDetector {
	return &DuplicateDetector{sites: map[string]*bootHistory{}}
}

// Heartbeat records the boot ID of a heartbeat.
func (d *DuplicateDetector) Heartbeat(site, boot string, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.sites[site]
	if s == nil {
		s = &bootHistory{}
		d.sites[site] = s
	}
	if boot != s.current {
		if boot == s.former && boot != "" && now.Sub(s.formerAt) < duplicateWindow {
			s.duplicateAt = now
		}
		s.former, s.formerAt, s.current = s.current, s.currentAt, boot
	}
	s.currentAt = now
}

// LastSeen returns when two leaves of the site were last seen, zero if never.
func (d *DuplicateDetector) LastSeen(site string) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.sites[site]; s != nil {
		return s.duplicateAt
	}
	return time.Time{}
}

// Retain drops the sites that no longer exist.
func (d *DuplicateDetector) Retain(exists func(site string) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.sites, func(site string, _ *bootHistory) bool { return !exists(site) })
}
