package bridge

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/petiole-io/petiole/streams"
)

// nodeLeaseDuration is how old a kubelet's last renewal may be, by the clock of its
// leaf, for the node to count as alive: the duration of a node lease.
const nodeLeaseDuration = 40 * time.Second

// presence knows which sites and nodes were heard, and when. It does no I/O, reads no
// clock, and is safe for concurrent use.
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

// adopt takes over what an earlier bridge knew of a site. A site that was connected
// has from now as long as after a heartbeat to say something.
func (p *liveness) restore(site string, connected bool, since, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sites[site] == nil {
		p.sites[site] = &siteLiveness{lastSeen: now, connected: connected, since: since, nodeLastSeen: map[string]time.Time{}}
	}
}

func (p *liveness) ensureSite(ensureSite string) *siteLiveness {
	h := p.sites[ensureSite]
	if h == nil {
		h = &siteLiveness{nodeLastSeen: map[string]time.Time{}}
		p.sites[ensureSite] = h
	}
	return h
}

// beat takes in a heartbeat that arrived now. alive are the nodes whose lease is to be
// renewed, woken those of them that were not alive before; connected says that the
// site was not connected before.
func (p *liveness) heartbeat(site string, b streams.Presence, now time.Time) (alive, woken []string, connected bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.ensureSite(site)
	h.prune(now)
	h.lastHeartbeat = b
	connected = h.markSeen(now)
	for _, n := range b.Nodes {
		if b.Time.Sub(n.Renewed) >= nodeLeaseDuration || !h.hasRoomFor(n.Name) {
			continue
		}
		if !h.alive(n.Name, now) {
			woken = append(woken, n.Name)
		}
		h.nodeLastSeen[n.Name] = now
		alive = append(alive, n.Name)
	}
	return alive, woken, connected
}

// report takes in that a node's kubelet said something at a time that the hub stored.
// woken and connected say that the node was not alive, the site not connected, before.
func (p *liveness) report(site, node string, stored, now time.Time) (woken, connected bool) {
	if stored.After(now) {
		stored = now
	}
	if now.Sub(stored) >= streams.PresenceTimeout {
		return false, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.ensureSite(site)
	h.prune(now)
	connected = h.markSeen(stored)
	if !h.hasRoomFor(node) {
		return false, connected
	}
	woken = !h.alive(node, now)
	if stored.After(h.nodeLastSeen[node]) {
		h.nodeLastSeen[node] = stored
	}
	return woken, connected
}

// admits says whether one more node may be known.
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

// prune forgets nodes that are not alive, so that a site cannot fill the memory with
// names.
func (h *siteLiveness) prune(now time.Time) {
	for n := range h.nodeLastSeen {
		if !h.alive(n, now) {
			delete(h.nodeLastSeen, n)
		}
	}
}

// expire marks the sites that have been silent too long, and returns them.
func (p *liveness) expire(now time.Time) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var silent []string
	for site, h := range p.sites {
		if h.connected && now.Sub(h.lastSeen) >= streams.PresenceTimeout {
			h.connected, h.since = false, now
			silent = append(silent, site)
		}
	}
	slices.Sort(silent)
	return silent
}

// retain drops the sites that are gone.
func (p *liveness) retain(exists func(site string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.sites, func(site string, _ *siteLiveness) bool { return !exists(site) })
}

// of is what is known of a site; its last heartbeat is zero when this bridge has not
// heard one.
func (p *liveness) state(site string) (connected bool, since time.Time, last streams.Presence) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.sites[site]
	if h == nil {
		return false, time.Time{}, streams.Presence{}
	}
	return h.connected, h.since, h.lastHeartbeat
}

// alive says whether a node may be spoken for, and when it was last heard: its site is
// connected and its own kubelet renews.
func (p *liveness) alive(site, node string, now time.Time) (bool, time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.sites[site]
	if h == nil || !h.connected {
		return false, time.Time{}
	}
	return h.alive(node, now), h.nodeLastSeen[node]
}

func (h *siteLiveness) alive(node string, now time.Time) bool {
	at, ok := h.nodeLastSeen[node]
	return ok && now.Sub(at) < streams.PresenceTimeout
}
