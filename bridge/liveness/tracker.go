package liveness

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

// registerTime is the time that a kubelet has after its leaf's link came up, such as after a
// reboot of the gateway, before its node counts as dead.
const registerTime = 50 * time.Second

// Tracker records when each site and node was last seen. It does no I/O, reads no clock, and
// is safe for concurrent use.
type Tracker struct {
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

// NewTracker returns a tracker that has seen no site.
func NewTracker() *Tracker { return &Tracker{sites: map[string]*siteLiveness{}} }

// Restore takes over the state of a site from an earlier bridge. A connected site has the
// usual time to send its next heartbeat, counted from now.
func (t *Tracker) Restore(site string, connected bool, since, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sites[site] == nil {
		t.sites[site] = &siteLiveness{lastSeen: now, connected: connected, since: since, nodeLastSeen: map[string]time.Time{}}
	}
}

func (t *Tracker) ensureSite(site string) *siteLiveness {
	h := t.sites[site]
	if h == nil {
		h = &siteLiveness{nodeLastSeen: map[string]time.Time{}}
		t.sites[site] = h
	}
	return h
}

// Heartbeat records a heartbeat that arrived now. alive are the nodes whose leases must be
// renewed, nowAlive those of them that were not alive before; connected is true if the site was
// not connected before.
func (t *Tracker) Heartbeat(site string, b streams.Presence, now time.Time) (alive, nowAlive []string, connected bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.ensureSite(site)
	h.prune(now)
	h.lastHeartbeat = b
	connected = h.markSeen(now)
	for _, n := range b.Nodes {
		if b.Time.Sub(n.Renewed) >= nodeLeaseDuration {
			delete(h.nodeLastSeen, n.Name)
			continue
		}
		if !h.hasRoomFor(n.Name) {
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

// Report records that the hub stored a report of a node's kubelet at that time. nowAlive is
// true if the node was not alive before, connected if the site was not connected before.
func (t *Tracker) Report(site, node string, stored, now time.Time) (nowAlive, connected bool) {
	if stored.After(now) {
		stored = now
	}
	if now.Sub(stored) >= streams.PresenceTimeout {
		return false, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.ensureSite(site)
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

// Expire marks sites without a recent heartbeat as disconnected, and returns them.
func (t *Tracker) Expire(now time.Time) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var expired []string
	for site, h := range t.sites {
		if h.connected && now.Sub(h.lastSeen) >= h.lastHeartbeat.Timeout() {
			h.connected, h.since = false, now
			expired = append(expired, site)
		}
	}
	slices.Sort(expired)
	return expired
}

// Connected returns the sites that are connected, sorted.
func (t *Tracker) Connected() (out []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for site, h := range t.sites {
		if h.connected {
			out = append(out, site)
		}
	}
	slices.Sort(out)
	return out
}

// Quiet returns the nodes that are alive, by site, of sites that send heartbeats less often than
// node leases must be renewed.
func (t *Tracker) Quiet(now time.Time) map[string][]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := map[string][]string{}
	for site, h := range t.sites {
		if !h.connected || h.lastHeartbeat.Timeout() <= streams.PresenceTimeout {
			continue
		}
		for n := range h.nodeLastSeen {
			if h.alive(n, now) {
				out[site] = append(out[site], n)
			}
		}
	}
	return out
}

// Retain drops the sites that no longer exist.
func (t *Tracker) Retain(exists func(site string) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.sites, func(site string, _ *siteLiveness) bool { return !exists(site) })
}

// State returns the state of a site. Its last heartbeat is zero if this bridge has received
// none.
func (t *Tracker) State(site string) (connected bool, since time.Time, last streams.Presence) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.sites[site]
	if h == nil {
		return false, time.Time{}, streams.Presence{}
	}
	return h.connected, h.since, h.lastHeartbeat
}

// Alive reports whether a node is alive, and when it was last seen. A node is alive if its
// site is connected and its own kubelet renews its lease.
func (t *Tracker) Alive(site, node string, now time.Time) (bool, time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.sites[site]
	if h == nil || !h.connected {
		return false, time.Time{}
	}
	return h.alive(node, now), h.nodeLastSeen[node]
}

// Dead reports whether a node has died while its site is connected: by the last heartbeat its
// kubelet no longer renews its lease, or has not renewed it since the link came up, which is
// registerTime ago.
func (t *Tracker) Dead(site, node string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.sites[site]
	if h == nil || !h.connected || h.alive(node, now) {
		return false
	}
	b := h.lastHeartbeat
	for _, n := range b.Nodes {
		if n.Name == node {
			return b.Time.Sub(n.Renewed) >= nodeLeaseDuration
		}
	}
	return !b.LinkSince.IsZero() && b.Time.Sub(b.LinkSince) >= registerTime
}

func (h *siteLiveness) alive(node string, now time.Time) bool {
	at, ok := h.nodeLastSeen[node]
	return ok && now.Sub(at) < h.lastHeartbeat.Timeout()
}
