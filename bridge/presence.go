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

// maxSiteNodes is how many nodes of a site are known; more are not heard.
const maxSiteNodes = 1000

// presence knows which sites and nodes were heard, and when. It does no I/O, reads no
// clock, and is safe for concurrent use.
type presence struct {
	mu    sync.Mutex
	sites map[string]*heard
}

type heard struct {
	at        time.Time
	connected bool
	since     time.Time
	last      streams.Presence
	nodes     map[string]time.Time
}

func newPresence() *presence { return &presence{sites: map[string]*heard{}} }

// adopt takes over what an earlier bridge knew of a site. A site that was connected
// has from now as long as after a heartbeat to say something.
func (p *presence) adopt(site string, connected bool, since, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sites[site] == nil {
		p.sites[site] = &heard{at: now, connected: connected, since: since, nodes: map[string]time.Time{}}
	}
}

func (p *presence) site(site string) *heard {
	h := p.sites[site]
	if h == nil {
		h = &heard{nodes: map[string]time.Time{}}
		p.sites[site] = h
	}
	return h
}

// beat takes in a heartbeat that arrived now. alive are the nodes whose lease is to be
// renewed, woken those of them that were not alive before; connected says that the
// site was not connected before.
func (p *presence) beat(site string, b streams.Presence, now time.Time) (alive, woken []string, connected bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.site(site)
	h.prune(now)
	h.last = b
	connected = h.hear(now)
	for _, n := range b.Nodes {
		if b.Time.Sub(n.Renewed) >= nodeLeaseDuration || !h.admits(n.Name) {
			continue
		}
		if !h.alive(n.Name, now) {
			woken = append(woken, n.Name)
		}
		h.nodes[n.Name] = now
		alive = append(alive, n.Name)
	}
	return alive, woken, connected
}

// report takes in that a node's kubelet said something at a time that the hub stored.
// woken and connected say that the node was not alive, the site not connected, before.
func (p *presence) report(site, node string, stored, now time.Time) (woken, connected bool) {
	if stored.After(now) {
		stored = now
	}
	if now.Sub(stored) >= streams.PresenceTimeout {
		return false, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.site(site)
	h.prune(now)
	connected = h.hear(stored)
	if !h.admits(node) {
		return false, connected
	}
	woken = !h.alive(node, now)
	if stored.After(h.nodes[node]) {
		h.nodes[node] = stored
	}
	return woken, connected
}

// admits says whether one more node may be known.
func (h *heard) admits(node string) bool {
	_, known := h.nodes[node]
	return known || len(h.nodes) < maxSiteNodes
}

func (h *heard) hear(at time.Time) (connected bool) {
	if at.After(h.at) {
		h.at = at
	}
	if h.connected {
		return false
	}
	h.connected, h.since = true, at
	return true
}

// prune forgets nodes that are not alive, so that a site cannot fill the memory with
// names.
func (h *heard) prune(now time.Time) {
	for n := range h.nodes {
		if !h.alive(n, now) {
			delete(h.nodes, n)
		}
	}
}

// expire marks the sites that have been silent too long, and returns them.
func (p *presence) expire(now time.Time) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var silent []string
	for site, h := range p.sites {
		if h.connected && now.Sub(h.at) >= streams.PresenceTimeout {
			h.connected, h.since = false, now
			silent = append(silent, site)
		}
	}
	slices.Sort(silent)
	return silent
}

// retain drops the sites that are gone.
func (p *presence) retain(exists func(site string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.sites, func(site string, _ *heard) bool { return !exists(site) })
}

// of is what is known of a site; its last heartbeat is zero when this bridge has not
// heard one.
func (p *presence) of(site string) (connected bool, since time.Time, last streams.Presence) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.sites[site]
	if h == nil {
		return false, time.Time{}, streams.Presence{}
	}
	return h.connected, h.since, h.last
}

// alive says whether a node may be spoken for, and when it was last heard: its site is
// connected and its own kubelet renews.
func (p *presence) alive(site, node string, now time.Time) (bool, time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.sites[site]
	if h == nil || !h.connected {
		return false, time.Time{}
	}
	return h.alive(node, now), h.nodes[node]
}

func (h *heard) alive(node string, now time.Time) bool {
	at, ok := h.nodes[node]
	return ok && now.Sub(at) < streams.PresenceTimeout
}
