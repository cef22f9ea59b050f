package store

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
)

// TestTombstonesAreCompacted makes and deletes 1,200 names, more than twice what is removed at a time: what is left is what lives,
// the last message, and what a consumer has not passed yet.
func TestTombstonesAreCompacted(t *testing.T) {
	t.Parallel()
	const names = 1200
	s, ctx := startSite(t)
	put := func(name string, op streams.Op) {
		t.Helper()
		ref := streams.Ref{Node: "plant-a-1", Resource: "pods", Namespace: "default", Name: name}
		msg := streams.Message{Op: op, UID: name, Version: "1"}.Encode(streams.DesiredSubject("plant-a", ref))
		if _, err := s.js.PublishMsgAsync(msg, jetstream.WithStallWait(10*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if err := streams.EnsureConsumer(ctx, s.js, streams.SiteDesired, streams.LocalConsumer(streams.ApplyConsumer, "", 1000)); err != nil {
		t.Fatal(err)
	}
	put("alive", streams.OpPut)
	for i := range names {
		put(fmt.Sprintf("p-%d", i), streams.OpPut)
	}
	for i := range names {
		put(fmt.Sprintf("p-%d", i), streams.OpDelete)
	}
	part := nats.NewMsg(streams.DesiredSubject("plant-a", streams.Ref{Resource: "configmaps", Namespace: "default", Name: "gone"}) + ".=part.0")
	if _, err := s.js.PublishMsg(ctx, part); err != nil {
		t.Fatal(err)
	}
	put("last", streams.OpDelete)
	<-s.js.PublishAsyncComplete()
	trim := func(life time.Duration) int {
		t.Helper()
		n, err := s.store.compactor.compact(ctx, life)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := trim(0); n != 0 {
		t.Fatalf("%d messages were removed that nobody had taken over", n)
	}
	c, err := s.js.Consumer(ctx, streams.SiteDesired, streams.ApplyConsumer)
	if err != nil {
		t.Fatal(err)
	}
	for left := c.CachedInfo().NumPending; left > 0; {
		batch, err := c.Fetch(int(min(left, 500)))
		if err != nil {
			t.Fatal(err)
		}
		for m := range batch.Messages() {
			if err := m.DoubleAck(ctx); err != nil {
				t.Fatal(err)
			}
			left--
		}
	}
	if n := trim(time.Hour); n != 0 {
		t.Fatalf("%d messages were removed that are young", n)
	}
	start := time.Now()
	n := trim(0)
	t.Logf("%d removed in %s", n, time.Since(start).Round(time.Millisecond))
	if n != names+1 {
		t.Errorf("%d messages removed, want %d tombstones and a part", n, names)
	}
	state := s.desired(t, ctx).CachedInfo().State
	if state.Msgs != 2 {
		t.Errorf("%d messages are left, want the living one and the last", state.Msgs)
	}
	if state.Bytes > 10_000 {
		t.Errorf("%d bytes are left", state.Bytes)
	}
	if _, err := s.desired(t, ctx).GetMsg(ctx, state.LastSeq); err != nil {
		t.Errorf("the last message: %v", err)
	}
}
