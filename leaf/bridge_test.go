package leaf

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/leaf/desired"
	"github.com/petiole-io/petiole/streams"
)

// responder is the bridge's side of a site's requests: what it published is what DESIRED
// holds.
type responder struct {
	t   *testing.T
	s   *site
	sub *nats.Subscription

	mu      sync.Mutex
	queries []streams.InventoryQuery
	states  []streams.InventoryState
	delay   time.Duration
	idle    bool // says that it repairs, and does not
	silent  bool // does not know positions
	asked   int
}

// respond answers the site's requests until the test ends.
func respond(t *testing.T, s *site) *responder {
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
func (b *responder) seen(state streams.InventoryState) (n int) {
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
	switch verb {
	case streams.RequestInventory:
		var q streams.InventoryQuery
		if err := json.Unmarshal(m.Data, &q); err != nil {
			b.t.Errorf("inventory query: %v", err)
		}
		time.Sleep(b.delay)
		answer := b.compare(q)
		b.queries, b.states = append(b.queries, q), append(b.states, answer.State)
		a = answer
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
}

func (b *responder) position(data []byte) streams.PositionAnswer {
	var q streams.PositionQuery
	if err := json.Unmarshal(data, &q); err != nil {
		return streams.PositionAnswer{Error: err.Error()}
	}
	stream, filter := streams.Reported, streams.ReportedFilter("plant-a")
	if q.Stream == streams.SiteTelemetry {
		stream, filter = streams.Telemetry, streams.TelemetryFilter("plant-a")
	}
	hub, err := b.s.hub.Stream(context.Background(), stream)
	if err != nil {
		return streams.PositionAnswer{Error: err.Error()}
	}
	last, err := hub.GetLastMsgForSubject(context.Background(), filter)
	if err != nil {
		return streams.PositionAnswer{}
	}
	return streams.PositionAnswer{ID: last.Header.Get(jetstream.MsgIDHeader)}
}

func (b *responder) published() (map[string]streams.InventoryEntry, *streams.Inventory, uint64) {
	hub, err := b.s.hub.Stream(context.Background(), streams.Desired)
	if err != nil {
		b.t.Error(err)
		return nil, nil, 0
	}
	all, m, highest := map[string]streams.InventoryEntry{}, &streams.Inventory{}, uint64(0)
	err = desired.Read(context.Background(), hub, "plant-a", true, func(msg jetstream.Msg, md *jetstream.MsgMetadata) error {
		highest = max(highest, md.Sequence.Stream)
		if e, ok := streams.EntryOf(msg.Subject(), msg.Headers()); ok {
			all[e.Subject] = e
			m.Add(e)
		}
		return nil
	})
	if err != nil {
		b.t.Error(err)
	}
	return all, m, highest
}

func (b *responder) compare(q streams.InventoryQuery) streams.InventoryAnswer {
	all, m, highest := b.published()
	switch {
	case b.idle:
		return streams.InventoryAnswer{State: streams.InventoryRepairing}
	case q.Seq < highest:
		return streams.InventoryAnswer{State: streams.InventoryBehind}
	case q.Digest == m.Digest():
		return streams.InventoryAnswer{State: streams.InventoryEqual}
	case q.Buckets == nil && q.Of == nil:
		return streams.InventoryAnswer{State: streams.InventorySendBuckets}
	case q.Of == nil:
		buckets, err := m.Differing(q.Buckets)
		if err != nil {
			return streams.InventoryAnswer{Error: err.Error()}
		}
		return streams.InventoryAnswer{State: streams.InventorySendEntries, Buckets: buckets}
	}
	return streams.InventoryAnswer{State: streams.InventoryRepairing, Published: b.repair(q, all)}
}

// repair puts on DESIRED again what differs in the buckets of the query.
func (b *responder) repair(q streams.InventoryQuery, all map[string]streams.InventoryEntry) (n int) {
	of := map[int]bool{}
	for _, i := range q.Of {
		of[i] = true
	}
	has := map[string]streams.InventoryEntry{}
	for _, e := range q.Entries {
		has[e.Subject] = e
		if _, ok := all[e.Subject]; !ok {
			b.put(e.Subject, streams.Message{Op: streams.OpDelete, UID: e.UID}.Encode(e.Subject))
			n++
		}
	}
	hub, err := b.s.hub.Stream(context.Background(), streams.Desired)
	if err != nil {
		b.t.Error(err)
		return n
	}
	for subject, e := range all {
		if !of[e.Bucket()] || has[subject] == e {
			continue
		}
		raw, err := hub.GetLastMsgForSubject(context.Background(), subject)
		if err != nil {
			b.t.Error(err)
			continue
		}
		_, m, err := streams.Load(context.Background(), hub, subject, raw.Header, raw.Data)
		if err == nil {
			_, err = streams.Put(context.Background(), b.s.hub, subject, m)
		}
		if err != nil {
			b.t.Errorf("publish %s again: %v", subject, err)
		}
		n++
	}
	return n
}

func (b *responder) put(subject string, msg *nats.Msg) {
	if _, err := b.s.hub.PublishMsg(context.Background(), msg); err != nil {
		b.t.Errorf("publish %s: %v", subject, err)
	}
}
