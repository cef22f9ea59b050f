package leaf

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/petiole-io/petiole/leaf/desired"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/inventory"
	"github.com/petiole-io/petiole/streams/traffic"
	"github.com/petiole-io/petiole/streams/urgent"
)

// responder is the bridge's side of a site's requests: what it published is what DESIRED
// holds.
type responder struct {
	t   testing.TB
	s   *site
	sub *nats.Subscription

	mu      sync.Mutex
	queries []inventory.Query
	states  []inventory.State
	delay   time.Duration
	idle    bool // says that it repairs, and does not
	silent  bool // does not know positions
	asked   int
	reports []traffic.Report
	// now is the bridge's clock; zero: the usual one.
	now time.Time
}

// respond answers the site's requests until the test ends.
func respond(t testing.TB, s *site) *responder {
	t.Helper()
	b := &responder{t: t, s: s}
	requests := make(chan *nats.Msg, 64)
	sub, err := s.bridge.ChanSubscribe(streams.RequestFilter, requests)
	if err != nil {
		t.Fatal(err)
	}
	b.sub = sub
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-end:
				return
			case m := <-requests:
				b.answer(m)
			}
		}
	}()
	t.Cleanup(func() { close(end); <-done })
	return b
}

func (b *responder) set(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

// seen are the outcomes so far.
func (b *responder) seen(state inventory.State) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.states {
		if s == state {
			n++
		}
	}
	return n
}

func (b *responder) answer(m *nats.Msg) {
	site, verb, err := streams.ParseRequest(m.Subject)
	if err != nil || site != "plant-a" {
		b.t.Errorf("request on %s: %v", m.Subject, err)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var a any
	var differs inventory.Difference
	switch verb {
	case inventory.Request:
		q, err := inventory.DecodeQuery(m.Data)
		if err != nil {
			b.t.Errorf("inventory query: %v", err)
		}
		time.Sleep(b.delay)
		var answer inventory.Answer
		answer, differs = b.compare(q)
		b.queries, b.states = append(b.queries, q), append(b.states, answer.State)
		a = answer
	case streams.RequestHub:
		a = streams.HubInfo{MaxPayload: b.s.bridge.MaxPayload(), ServerVersion: b.s.bridge.ConnectedServerVersion(), Time: time.Now()}
	case urgent.Request:
		a = b.urgent(m.Data)
	case traffic.Request:
		r, err := traffic.Decode(m.Data)
		if err != nil {
			b.t.Errorf("report of traffic: %v", err)
		}
		b.reports = append(b.reports, r)
		a = traffic.Answer{Time: cmp.Or(b.now, time.Now())}
	case streams.RequestPosition:
		b.asked++
		if b.silent {
			return
		}
		a = b.position(m.Data)
	}
	data, err := json.Marshal(a)
	if err == nil {
		err = m.Respond(data)
	}
	if err != nil {
		b.t.Logf("answer to %s: %v", m.Subject, err)
	}
	if len(differs.Missing)+len(differs.Extra) > 0 {
		b.repair(differs)
	}
}

// urgent answers what is urgent in the backlog.
func (b *responder) urgent(data []byte) urgent.Answer {
	var q urgent.Query
	if err := json.Unmarshal(data, &q); err != nil {
		return urgent.Answer{Error: err.Error()}
	}
	hub, err := b.s.hub.Stream(context.Background(), streams.Desired)
	if err != nil {
		return urgent.Answer{Error: err.Error()}
	}
	var all []urgent.Entry
	parts := map[string]bool{}
	err = desired.Read(context.Background(), hub, "plant-a", true, func(msg jetstream.Msg, md *jetstream.MsgMetadata) error {
		if object := streams.ObjectSubject(msg.Subject()); object != msg.Subject() {
			parts[object] = true
		} else {
			all = append(all, urgent.Entry{Subject: object, Seq: md.Sequence.Stream, Delete: msg.Headers().Get(streams.HeaderOp) == string(streams.OpDelete), Parts: parts[object]})
		}
		return nil
	})
	if err != nil {
		return urgent.Answer{Error: err.Error()}
	}
	a, err := urgent.Collect(all, q, func(e urgent.Entry) (urgent.Message, error) {
		m, err := hub.GetLastMsgForSubject(context.Background(), e.Subject)
		if err != nil {
			return urgent.Message{}, nil // it was replaced meanwhile
		}
		return urgent.Copy(m.Sequence, e.Subject, m.Header, m.Data), nil
	})
	if err != nil {
		a.Error = err.Error()
	}
	return a
}

func (b *responder) position(data []byte) streams.PositionAnswer {
	var q streams.PositionQuery
	if err := json.Unmarshal(data, &q); err != nil {
		return streams.PositionAnswer{Error: err.Error()}
	}
	stream, filter := streams.Reported("plant-a"), streams.ReportedFilter("plant-a")
	if q.Stream == streams.SiteTelemetry {
		stream, filter = streams.Telemetry("plant-a"), streams.TelemetryFilter("plant-a")
	}
	hub, err := b.s.hub.Stream(context.Background(), stream)
	if err != nil {
		return streams.PositionAnswer{Error: err.Error()}
	}
	last, err := hub.GetLastMsgForSubject(context.Background(), filter)
	if err != nil {
		return streams.PositionAnswer{}
	}
	a := streams.PositionAnswer{ID: last.Header.Get(jetstream.MsgIDHeader)}
	if q.Stream == streams.SiteTelemetry && !q.IncarnationKnown(a.ID) {
		if a.Known, err = streams.LastKnown(context.Background(), hub, filter, q.Known); err != nil {
			return streams.PositionAnswer{Error: err.Error()}
		}
	}
	return a
}

// published returns the position of the last message of DESIRED, and the entries in it.
func (b *responder) published(hub jetstream.Stream) (streams.HubPosition, map[string]inventory.Entry) {
	last, all := streams.HubPosition{}, map[string]inventory.Entry{}
	err := desired.Read(context.Background(), hub, "plant-a", true, func(msg jetstream.Msg, md *jetstream.MsgMetadata) error {
		last.Seq = max(last.Seq, md.Sequence.Stream)
		if e, ok := inventory.EntryOf(msg.Subject(), msg.Headers()); ok {
			all[e.Subject] = e
		}
		return nil
	})
	if err != nil {
		b.t.Error(err)
	}
	return last, all
}

// compare answers a query. What differs is to be repaired after the answer.
func (b *responder) compare(q inventory.Query) (inventory.Answer, inventory.Difference) {
	if b.idle {
		return inventory.Answer{State: inventory.Repairing}, inventory.Difference{}
	}
	hub, err := b.s.hub.Stream(context.Background(), streams.Desired)
	if err != nil {
		b.t.Error(err)
		return inventory.Answer{Error: err.Error()}, inventory.Difference{}
	}
	last, all := b.published(hub)
	last.Identity = q.Identity // the tests replace no hub between two queries
	want := inventory.Expected{Last: last, Idle: true, Set: &inventory.Set{}, EntriesIn: func(buckets map[int]bool) map[string]inventory.Entry {
		maps.DeleteFunc(all, func(_ string, e inventory.Entry) bool { return !buckets[e.Bucket()] })
		return all
	}}
	for _, e := range all {
		want.Set.Add(e)
	}
	var a inventory.Answer
	var d inventory.Difference
	err = inventory.CheckQuery("plant-a", q, 1)
	if err == nil {
		a, d, err = inventory.Check(want, q)
	}
	if err != nil {
		b.t.Errorf("inventory query: %v", err)
		return inventory.Answer{Error: err.Error()}, inventory.Difference{}
	}
	return a, d
}

// repair puts on DESIRED again what differs, as the bridge does: several objects at a time, and the
// next query waits meanwhile.
func (b *responder) repair(d inventory.Difference) {
	hub, err := b.s.hub.Stream(context.Background(), streams.Desired)
	if err != nil {
		b.t.Error(err)
		return
	}
	var puts errgroup.Group
	puts.SetLimit(16)
	for _, e := range d.Missing {
		raw, err := hub.GetLastMsgForSubject(context.Background(), e.Subject)
		if err != nil {
			b.t.Error(err)
			continue
		}
		puts.Go(func() error { return b.put(streams.Load(context.Background(), hub, e.Subject, raw.Header, raw.Data)) })
	}
	for _, e := range d.Extra {
		_, ref, err := streams.ParseDesired(e.Subject)
		puts.Go(func() error {
			return b.put("plant-a", streams.Message{Ref: ref, Op: streams.OpDelete, UID: e.UID}, err)
		})
	}
	if err := puts.Wait(); err != nil {
		b.t.Error(err)
	}
}

func (b *responder) put(site string, m streams.Message, err error) error {
	if err == nil {
		_, err = streams.Put(context.Background(), b.s.hub, streams.DesiredSubject(site, m.Ref), m)
	}
	if err != nil {
		return fmt.Errorf("publish %s: %w", m.Ref, err)
	}
	return nil
}
