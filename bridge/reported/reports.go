package reported

import (
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

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
	// delivered is the message to acknowledge once the API server has accepted the report; nil
	// if that was done, or if the report was read back from the stream. receivedAt is the time
	// of its arrival.
	delivered  jetstream.Msg
	receivedAt time.Time
}

// reports holds the newest report about each object. It does no I/O and is safe for concurrent
// use.
type reports struct {
	mu       sync.Mutex
	all      map[Key]*report
	byObject map[kube.Key]map[Key]struct{}
	bySite   map[string]map[Key]struct{}
	// waiting counts the reports of each site that wait for the API server.
	waiting map[string]int
	// unacked holds the reports that are not acknowledged.
	unacked map[Key]*report
}

func newReports() *reports {
	return &reports{
		all: map[Key]*report{}, byObject: map[kube.Key]map[Key]struct{}{}, bySite: map[string]map[Key]struct{}{},
		waiting: map[string]int{}, unacked: map[Key]*report{},
	}
}

// maxWaiting is the number of reports of one site that can wait for the API server, so that
// one site cannot crowd out the others.
const maxWaiting = 200

// room returns how many more reports of a site can wait.
func (r *reports) room(site string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maxWaiting - r.waiting[site]
}

// has reports whether this report of an object, or a later one, is present.
func (r *reports) has(k Key, seq uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.all[k]
	return n != nil && n.seq >= seq
}

// setWaiting changes whether a report waits. The caller holds the lock.
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

// put adds a report unless a newer one is present. It returns the messages that are superseded
// and must be acknowledged.
func (r *reports) put(k Key, n *report) (stale []jetstream.Msg) {
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
	r.setWaiting(k.Site, was, false)
	r.setWaiting(k.Site, n, n.pending)
	r.all[k] = n
	if delete(r.unacked, k); n.delivered != nil {
		r.unacked[k] = n
	}
	index(r.byObject, kube.KeyOf(k.Ref), k)
	index(r.bySite, k.Site, k)
	return stale
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

// resolve marks report seq as acknowledged and accepted, or, with drop, removes it. It ignores
// a report that was replaced by a newer one.
func (r *reports) resolve(k Key, seq uint64, drop bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.all[k]
	if n == nil || n.seq != seq {
		return
	}
	r.setWaiting(k.Site, n, false)
	delete(r.unacked, k)
	if !drop {
		n.delivered, n.pending = nil, false
		return
	}
	delete(r.all, k)
	unindex(r.byObject, kube.KeyOf(k.Ref), k)
	unindex(r.bySite, k.Site, k)
}

// waitForNode records that report seq waits for its node. It returns the message to
// acknowledge: REPORTED keeps it as the newest of its object, and it must not occupy the
// shared ack window.
func (r *reports) waitForNode(k Key, seq uint64) jetstream.Msg {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.all[k]
	if n == nil || n.seq != seq {
		return nil
	}
	r.setWaiting(k.Site, n, false)
	return r.detach(k, n)
}

// detach returns the message of a report for acknowledgement, nil if that was done before. The
// caller holds the lock.
func (r *reports) detach(k Key, n *report) jetstream.Msg {
	from := n.delivered
	n.delivered = nil
	delete(r.unacked, k)
	return from
}

// unackedReport identifies a report that is not acknowledged.
type unackedReport struct {
	key Key
	seq uint64
}

// unackedBefore returns the unacknowledged reports that were received before a time.
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

// releaseMsg returns the message of report seq for acknowledgement. The report goes on
// waiting.
func (r *reports) releaseMsg(k Key, seq uint64) jetstream.Msg {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.all[k]
	if n == nil || n.seq != seq {
		return nil
	}
	return r.detach(k, n)
}

// ofObject returns the reports about one object.
func (r *reports) ofObject(o kube.Key) []Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	return keysOf(r.byObject[o])
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
	case m.Group == "" && m.Resource == "pods":
		return m.Op == streams.OpPut // a create is for a mirror pod, a delete is final
	case m.Group == "" && m.Resource == "nodes", m.Group == kube.DeviceGroup && m.Resource == "devicestatuses", kube.IsCSINode(m.Ref):
		return m.Op != streams.OpDelete
	}
	return false
}

// isRetained reports whether a message stays in REPORTED while its object exists: the state of
// an object, including the absence of a node's CSINode.
func isRetained(m streams.Message) bool { return isState(m) || kube.IsCSINode(m.Ref) }

// The reasons for which a report is in QUARANTINE.
const (
	reasonUndecodable = "undecodable"
	reasonIncomplete  = "incomplete"
	reasonRefused     = "refused"
)
