package bridge

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/petiole-io/petiole/streams"
)

// nodeLeaseDuration is the maximum age of a kubelet's last renewal, by the clock of its leaf,
// at which the node counts as alive: the duration of a node lease.
const nodeLeaseDuration = 40 * time.Second

// liveness records when each site and node was last seen. It does no I/O, reads no clock, and
// is safe for concurrent use.
type liveness struct {
	mu    sync.Mutex
	sites map[string]*siteLiveness
}

type siteLiveness struct {
	lastSeen      time.Time
	connected     bool
	since         time.Time
	lastHeartbeat streams.Presence
	nodeLastSeen  map[string]time.Time
}

func newLiveness() *liveness { return &liveness{sites: map[string]*siteLiveness{}} }

// restore takes over the state of a site from an earlier bridge. A connected site has the
// usual time to send its next heartbeat, counted from now.
func (l *liveness) restore(site string, connected bool, since, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sites[site] == nil {
		l.sites[site] = &siteLiveness{lastSeen: now, connected: connected, since: since, nodeLastSeen: map[string]time.Time{}}
	}
}

func (l *liveness) ensureSite(site string) *siteLiveness {
	h := l.sites[site]
	if h == nil {
		h = &siteLiveness{nodeLastSeen: map[string]time.Time{}}
		l.sites[site] = h
	}
	return h
}

// heartbeat records a heartbeat that arrived now. alive are the nodes whose leases must be
// renewed, nowAlive those of them that were not alive before; connected is true if the site was
// not connected before.
func (l *liveness) heartbeat(site string, b streams.Presence, now time.Time) (alive, nowAlive []string, connected bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.ensureSite(site)
	h.prune(now)
	h.lastHeartbeat = b
	connected = h.markSeen(now)
	for _, n := range b.Nodes {
		if b.Time.Sub(n.Renewed) >= nodeLeaseDuration || !h.hasRoomFor(n.Name) {
			continue
		}
		if !h.alive(n.Name, now) {
			nowAlive = append(nowAlive, n.Name)
		}
		h.nodeLastSeen[n.Name] = now
		alive = append(alive, n.Name)
	}
	return alive, nowAlive, connected
}

// report records that the hub stored a report of a node's kubelet at that time. nowAlive is
// true if the node was not alive before, connected if the site was not connected before.
func (l *liveness) report(site, node string, stored, now time.Time) (nowAlive, connected bool) {
	if stored.After(now) {
		stored = now
	}
	if now.Sub(stored) >= streams.PresenceTimeout {
		return false, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.ensureSite(site)
	h.prune(now)
	connected = h.markSeen(stored)
	if !h.hasRoomFor(node) {
		return false, connected
	}
	nowAlive = !h.alive(node, now)
	if stored.After(h.nodeLastSeen[node]) {
		h.nodeLastSeen[node] = stored
	}
	return nowAlive, connected
}

// hasRoomFor reports whether the node is known or one more can be added.
func (h *siteLiveness) hasRoomFor(node string) bool {
	_, known := h.nodeLastSeen[node]
	return known || len(h.nodeLastSeen) < streams.MaxSiteNodes
}

func (h *siteLiveness) markSeen(at time.Time) (connected bool) {
	if at.After(h.lastSeen) {
		h.lastSeen = at
	}
	if h.connected {
		return false
	}
	h.connected, h.since = true, at
	return true
}

// prune forgets nodes that are not alive, so that a site cannot exhaust the memory with names.
func (h *siteLiveness) prune(now time.Time) {
	for n := range h.nodeLastSeen {
		if !h.alive(n, now) {
			delete(h.nodeLastSeen, n)
		}
	}
}

// expire marks sites without a recent heartbeat as disconnected, and returns them.
func (l *liveness) expire(now time.Time) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var expired []string
	for site, h := range l.sites {
		if h.connected && now.Sub(h.lastSeen) >= streams.PresenceTimeout {
			h.connected, h.since = false, now
			expired = append(expired, site)
		}
	}
	slices.Sort(expired)
	return expired
}

// retain drops the sites that no longer exist.
func (l *liveness) retain(exists func(site string) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.sites, func(site string, _ *siteLiveness) bool { return !exists(site) })
}

// state returns the state of a site. Its last heartbeat is zero if this bridge has received
// none.
func (l *liveness) state(site string) (connected bool, since time.Time, last streams.Presence) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.sites[site]
	if h == nil {
		return false, time.Time{}, streams.Presence{}
	}
	return h.connected, h.since, h.lastHeartbeat
}

// alive reports whether a node is alive, and when it was last seen. A node is alive if its
// site is connected and its own kubelet renews its lease.
func (l *liveness) alive(site, node string, now time.Time) (bool, time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.sites[site]
	if h == nil || !h.connected {
		return false, time.Time{}
	}
	return h.alive(node, now), h.nodeLastSeen[node]
}

func (h *siteLiveness) alive(node string, now time.Time) bool {
	at, ok := h.nodeLastSeen[node]
	return ok && now.Sub(at) < streams.PresenceTimeout
}
