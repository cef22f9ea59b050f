package reported

import (
	"sync"
	"time"

	"github.com/petiole-io/petiole/bridge/bounds"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/streams"
)

// Key identifies the reports of one site about one object.
type Key struct {
	Site string
	Ref  streams.Ref
}

// report is the newest report of a site about an object.
type report struct {
	seq    uint64
	msg    streams.Message
	stored time.Time
	// pending is true until the API server has accepted the report. waiting is true while it
	// is to be tried, false while it waits for its node.
	pending, waiting bool
	// forbiddenSince is the time since when the API server has forbidden the report at every
	// try, zero if it did not at the last try.
	forbiddenSince time.Time
}

// stateBytes returns the size of a report that is the state of an object, 0 for another or none.
func (n *report) stateBytes() int {
	if n == nil || !isState(n.msg) {
		return 0
	}
	return len(n.msg.Object)
}

// reports holds the newest report about each object. It does no I/O and is safe for concurrent
// use.
type reports struct {
	mu       sync.Mutex
	all      map[Key]*report
	byObject map[kube.Key]map[Key]struct{}
	bySite   map[string]map[Key]struct{}
	// waiting holds the reports of each site that wait for the API server.
	waiting map[string]map[Key]*report
	// stateBytes is the size of the states of each site's objects.
	stateBytes map[string]int
}

func newReports() *reports {
	return &reports{
		all: map[Key]*report{}, byObject: map[kube.Key]map[Key]struct{}{}, bySite: map[string]map[Key]struct{}{},
		waiting: map[string]map[Key]*report{}, stateBytes: map[string]int{},
	}
}

// maxWaiting is the number of reports of one site that can wait for the API server, so that
// one site cannot crowd out the others.
const maxWaiting = 200

// The bounds of the memory that one site's reports take: of those that wait, and of the states of
// all its objects.
const (
	maxWaitingBytes = bounds.MaxWaitingBytes
	maxStateBytes   = bounds.MaxStateBytes
)

// room returns how many more reports of a site can wait.
func (r *reports) room(site string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	bytes := 0
	for _, n := range r.waiting[site] {
		bytes += len(n.msg.Object)
	}
	return min(maxWaiting-len(r.waiting[site]), maxWaiting*(maxWaitingBytes-bytes)/maxWaitingBytes)
}

// firstWaiting returns the lowest sequence of a site's reports that wait, 0 if none does.
func (r *reports) firstWaiting(site string) (first uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.waiting[site] {
		if first == 0 || n.seq < first {
			first = n.seq
		}
	}
	return first
}

// setWaiting changes whether a report waits. The caller holds the lock.
func (r *reports) setWaiting(k Key, n *report, waiting bool) {
	n.waiting = waiting
	if waiting {
		if r.waiting[k.Site] == nil {
			r.waiting[k.Site] = map[Key]*report{}
		}
		r.waiting[k.Site][k] = n
		return
	}
	if delete(r.waiting[k.Site], k); len(r.waiting[k.Site]) == 0 {
		delete(r.waiting, k.Site)
	}
}

// put adds a report unless a newer one is present. It returns false, and changes nothing, if the
// states of the site's objects would take more memory than they may.
func (r *reports) put(k Key, n *report) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.all[k]
	if was != nil && was.seq > n.seq {
		return true
	}
	total := r.stateBytes[k.Site] - was.stateBytes() + n.stateBytes()
	if total > maxStateBytes && n.stateBytes() > was.stateBytes() {
		return false
	}
	r.stateBytes[k.Site] = total
	r.setWaiting(k, n, n.pending)
	r.all[k] = n
	index(r.byObject, kube.KeyOf(k.Ref), k)
	index(r.bySite, k.Site, k)
	return true
}

func (r *reports) get(k Key) *report {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.all[k]; n != nil {
		c := *n
		return &c
	}
	return nil
}

// resolve marks report seq as accepted, or, with drop, removes it. It ignores a report that was
// replaced by a newer one.
func (r *reports) resolve(k Key, seq uint64, drop bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.all[k]
	if n == nil || n.seq != seq {
		return
	}
	r.setWaiting(k, n, false)
	if n.pending = false; drop {
		r.remove(k)
	}
}

// remove removes a report. The caller holds the lock.
func (r *reports) remove(k Key) {
	if r.stateBytes[k.Site] -= r.all[k].stateBytes(); r.stateBytes[k.Site] == 0 {
		delete(r.stateBytes, k.Site)
	}
	delete(r.all, k)
	unindex(r.byObject, kube.KeyOf(k.Ref), k)
	unindex(r.bySite, k.Site, k)
}

// forget removes all reports of a site.
func (r *reports) forget(site string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range keysOf(r.bySite[site]) {
		r.remove(k)
	}
	delete(r.waiting, site)
}

// waitForNode records that report seq, the state of an object, waits for its node. The stream
// keeps it as the newest of its object, and it takes no place among those that wait for the API
// server.
func (r *reports) waitForNode(k Key, seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.all[k]; n != nil && n.seq == seq {
		r.setWaiting(k, n, false)
	}
}

// forbidden records the time at which report seq was forbidden, zero if it was not. It returns
// the time since when every try was forbidden.
func (r *reports) forbidden(k Key, seq uint64, at time.Time) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.all[k]
	switch {
	case n == nil || n.seq != seq:
		return at
	case n.forbiddenSince.IsZero() || at.IsZero():
		n.forbiddenSince = at
	}
	return n.forbiddenSince
}

// ofObject returns the reports about one object.
func (r *reports) ofObject(o kube.Key) []Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	return keysOf(r.byObject[o])
}

// sequences returns the sequences up to last of all reports of a site.
func (r *reports) sequences(site string, last uint64) (seqs []uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k := range r.bySite[site] {
		if n := r.all[k]; n.seq <= last {
			seqs = append(seqs, n.seq)
		}
	}
	return seqs
}

// ofSite returns all reports of a site.
func (r *reports) ofSite(site string) []Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	return keysOf(r.bySite[site])
}

func index[K comparable](m map[K]map[Key]struct{}, by K, k Key) {
	if m[by] == nil {
		m[by] = map[Key]struct{}{}
	}
	m[by][k] = struct{}{}
}

func unindex[K comparable](m map[K]map[Key]struct{}, by K, k Key) {
	delete(m[by], k)
	if len(m[by]) == 0 {
		delete(m, by)
	}
}

func keysOf(m map[Key]struct{}) []Key {
	keys := make([]Key, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}

// isState reports whether a message is the state of an object. Such reports are kept after
// they were accepted, and are written again if the API differs. Others, such as events and
// deletions, are done once accepted.
func isState(m streams.Message) bool {
	switch {
	case !holdsStates(m.Ref):
		return false
	case m.Group == "" && m.Resource == "pods":
		return m.Op == streams.OpPut // a create is for a mirror pod, a delete is final
	}
	return m.Op != streams.OpDelete
}

// holdsStates reports whether a reported object is one of those whose states are kept.
func holdsStates(r streams.Ref) bool {
	switch {
	case r.Group == "":
		return r.Resource == "pods" || r.Resource == "nodes"
	case r.Group == kube.DeviceGroup:
		return r.Resource == "devicestatuses"
	}
	return kube.IsCSINode(r)
}

// isRetained reports whether a message stays in its stream while its object exists: the state of
// an object, including the absence of a node's CSINode.
func isRetained(m streams.Message) bool { return isState(m) || kube.IsCSINode(m.Ref) }

// The reasons for which a report is in QUARANTINE.
const (
	reasonUndecodable = "undecodable"
	reasonIncomplete  = "incomplete"
	reasonRefused     = "refused"
)
