package bridge

import (
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
)

// reportKey names what one site says about one object.
type reportKey struct {
	site string
	ref  streams.Ref
}

// report is the newest that a site said about an object.
type report struct {
	seq    uint64
	msg    streams.Message
	stored time.Time
	// fresh says that the API server has not taken the report over yet, waiting that it
	// is to be tried now, and not only when its node is heard.
	pending, waiting bool
	// denied is since when the API server has forbidden the report, zero when it has not at
	// the last try.
	forbiddenSince time.Time
	// from is the message to acknowledge when the API server has taken the report
	// over; nil when it has, and when the report was read from the stream's past. taken is
	// when it came.
	delivered  jetstream.Msg
	receivedAt time.Time
}

// reports holds the newest report of each object, at most one for each. It does no I/O
// and is safe for concurrent use.
type reports struct {
	mu       sync.Mutex
	all      map[reportKey]*report
	byObject map[objectKey]map[reportKey]struct{}
	bySite   map[string]map[reportKey]struct{}
	// waiting counts the reports of a site that wait for the API server.
	waiting map[string]int
	// held are the reports that are not acknowledged.
	unacked map[reportKey]*report
}

func newReports() *reports {
	return &reports{
		all: map[reportKey]*report{}, byObject: map[objectKey]map[reportKey]struct{}{}, bySite: map[string]map[reportKey]struct{}{},
		waiting: map[string]int{}, unacked: map[reportKey]*report{},
	}
}

// maxWaiting is how many reports of one site may wait for the API server, so that no
// site can take the place of the others'.
const maxWaiting = 200

// room is how many more reports of a site may wait.
func (r *reports) room(site string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maxWaiting - r.waiting[site]
}

// knows says whether this report of an object, or a later one, is held.
func (r *reports) has(k reportKey, seq uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.all[k]
	return n != nil && n.seq >= seq
}

// wait notes whether a report waits. The caller holds the lock.
func (r *reports) setWaiting(site string, n *report, waiting bool) {
	if n == nil || n.waiting == waiting {
		return
	}
	n.waiting = waiting
	if waiting {
		r.waiting[site]++
	} else if r.waiting[site]--; r.waiting[site] == 0 {
		delete(r.waiting, site)
	}
}

// put takes in a report unless a newer one is known. It returns the messages that have
// nothing more to say and are to be acknowledged.
func (r *reports) put(k reportKey, n *report) (stale []jetstream.Msg) {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.all[k]
	switch {
	case was != nil && was.seq > n.seq:
		if n.delivered != nil {
			stale = append(stale, n.delivered)
		}
		return stale
	case was != nil && was.seq < n.seq && was.delivered != nil:
		stale = append(stale, was.delivered)
	}
	r.setWaiting(k.site, was, false)
	r.setWaiting(k.site, n, n.pending)
	r.all[k] = n
	if delete(r.unacked, k); n.delivered != nil {
		r.unacked[k] = n
	}
	index(r.byObject, keyOf(k.ref), k)
	index(r.bySite, k.site, k)
	return stale
}

func (r *reports) get(k reportKey) *report {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.all[k]; n != nil {
		c := *n
		return &c
	}
	return nil
}

// settle notes that report seq needs no acknowledgement any more, and with drop that
// nothing more is to be done with it. A newer report is left alone.
func (r *reports) resolve(k reportKey, seq uint64, drop bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.all[k]
	if n == nil || n.seq != seq {
		return
	}
	r.setWaiting(k.site, n, false)
	delete(r.unacked, k)
	if !drop {
		n.delivered, n.pending = nil, false
		return
	}
	delete(r.all, k)
	unindex(r.byObject, keyOf(k.ref), k)
	unindex(r.bySite, k.site, k)
}

// park notes that report seq waits for its node, and returns the message that is to be
// acknowledged: REPORTED keeps it as the newest of its object, and it must not take the
// place of others'.
func (r *reports) waitForNode(k reportKey, seq uint64) jetstream.Msg {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.all[k]
	if n == nil || n.seq != seq {
		return nil
	}
	r.setWaiting(k.site, n, false)
	return r.detach(k, n)
}

// let returns the message of a report that is to be acknowledged, nil when it was. The
// caller holds the lock.
func (r *reports) detach(k reportKey, n *report) jetstream.Msg {
	from := n.delivered
	n.delivered = nil
	delete(r.unacked, k)
	return from
}

// heldReport is a report that is not acknowledged.
type unackedReport struct {
	key reportKey
	seq uint64
}

// heldSince are the reports that came before a time and are not acknowledged.
func (r *reports) unackedBefore(before time.Time) []unackedReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	var held []unackedReport
	for k, n := range r.unacked {
		if n.receivedAt.Before(before) {
			held = append(held, unackedReport{k, n.seq})
		}
	}
	return held
}

// deny notes when report seq was forbidden, zero that it was not, and returns since when
// it has been forbidden at every try.
func (r *reports) forbidden(k reportKey, seq uint64, at time.Time) time.Time {
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

// release returns the message of report seq, which is to be acknowledged while the report
// goes on waiting.
func (r *reports) releaseMsg(k reportKey, seq uint64) jetstream.Msg {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.all[k]
	if n == nil || n.seq != seq {
		return nil
	}
	return r.detach(k, n)
}

// about are the reports about one object.
func (r *reports) ofObject(o objectKey) []reportKey {
	r.mu.Lock()
	defer r.mu.Unlock()
	return keysOf(r.byObject[o])
}

// ofSite are all reports of a site.
func (r *reports) ofSite(site string) []reportKey {
	r.mu.Lock()
	defer r.mu.Unlock()
	return keysOf(r.bySite[site])
}

func index[K comparable](m map[K]map[reportKey]struct{}, by K, k reportKey) {
	if m[by] == nil {
		m[by] = map[reportKey]struct{}{}
	}
	m[by][k] = struct{}{}
}

func unindex[K comparable](m map[K]map[reportKey]struct{}, by K, k reportKey) {
	delete(m[by], k)
	if len(m[by]) == 0 {
		delete(m, by)
	}
}

func keysOf(m map[reportKey]struct{}) []reportKey {
	keys := make([]reportKey, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}

// keeps says which reports stay when they are accepted, to be held against the API:
// what a site says about the state of an object. Other reports, such as events and
// deletions, are done with then.
func isState(m streams.Message) bool {
	switch {
	case m.Group == "" && m.Resource == "pods":
		return m.Op == streams.OpPut // a create is of a mirror pod, a delete is final
	case m.Group == "" && m.Resource == "nodes", m.Group == deviceGroup && m.Resource == "devicestatuses", isCSINode(m.Ref):
		return m.Op != streams.OpDelete
	}
	return false
}

// lasts says which reports stay in REPORTED while their object is in the API: the state
// of an object, also that there is no CSINode of a node.
func isRetained(m streams.Message) bool { return isState(m) || isCSINode(m.Ref) }

// subjectOf is the object that a report is about: of a device's status the device, of a
// CSINode the node.
func objectOf(k reportKey) objectKey {
	o := keyOf(k.ref)
	switch {
	case o.Group == deviceGroup && o.Resource == "devicestatuses":
		o.Resource = "devices"
	case isCSINode(k.ref):
		o = coreKey("nodes", "", o.Name)
	}
	return o
}

func isCSINode(r streams.Ref) bool { return r.Group == storageGroup && r.Resource == "csinodes" }
