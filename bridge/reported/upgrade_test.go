package reported

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/streams"
)

// The reports that earlier versions stored in one stream of all sites are moved: states, and what
// was not dealt with, never in place of something newer, and once, also if the bridge was
// interrupted. Those of a site that does not exist wait for it.
func TestSharedReportsAreMoved(t *testing.T) {
	t.Parallel()
	w := startFlooded(t, accepts)
	ctx, js := t.Context(), w.hub.JS
	large := largeReport(t, w)
	for _, site := range []string{"plant-a", "plant-b"} {
		if err := js.DeleteStream(ctx, streams.Reported(site)); err != nil {
			t.Fatal(err)
		}
	}
	old, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name: streams.SharedReported, Subjects: []string{"reported.>"}, MaxMsgsPerSubject: 1, AllowDirect: true, AllowAtomicPublish: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	event := func(site, name string) *nats.Msg {
		node := map[string]string{"plant-a": "a1", "plant-b": "b1", "plant-c": "c1"}[site]
		m := put(streams.ReportedSubject(site, streams.Ref{Node: node, Resource: "events", Namespace: "default", Name: name}), fmt.Sprintf(`{"metadata":{"name":%q}}`, name))
		m.Header.Set(jetstream.MsgIDHeader, site+name)
		return m
	}
	w.say("state")
	w.send(event("plant-a", "done"))
	floor, err := old.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cons, err := js.CreateConsumer(ctx, streams.SharedReported, jetstream.ConsumerConfig{Durable: formerConsumer, AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	batch, err := cons.Fetch(int(floor.State.LastSeq))
	if err != nil {
		t.Fatal(err)
	}
	w.send(event("plant-b", "deferred"))
	n := uint64(0)
	for msg := range batch.Messages() {
		if err := msg.DoubleAck(ctx); err != nil {
			t.Fatal(err)
		}
		n++
	}
	more, err := cons.Fetch(1)
	if err != nil {
		t.Fatal(err)
	}
	for msg := range more.Messages() {
		if err := msg.DoubleAck(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.hub.Bucket.PutString(ctx, formerDeferred+hex.EncodeToString([]byte("plant-b")), fmt.Sprint(n+1)); err != nil {
		t.Fatal(err)
	}
	w.send(large...)
	w.send(event("plant-a", "waits"), event("plant-a", "newer"), event("plant-c", "unknown"))

	// The next version.
	if w.hub, err = hub.Open(ctx, w.hub.Conn, streams.HubLimits{}); err != nil {
		t.Fatal(err)
	}
	w.addSite("plant-a", "a1", "web")
	w.addSite("plant-b", "b1", "large")
	newer := event("plant-a", "newer")
	newer.Header.Set(jetstream.MsgIDHeader, "newer")
	w.send(newer)
	// The bridge is interrupted after it copied some.
	interrupted := w.successor()
	stream := w.stream("plant-b")
	s := &siteState{name: "plant-b", stream: stream, created: stream.CachedInfo().Created}
	if err := (&former{interrupted.reader.Config}).copyReports(ctx, s, old); err != nil {
		t.Fatal(err)
	}
	if err := w.hub.Bucket.Delete(ctx, bucketKey(floorPrefix, "plant-b")); err != nil {
		t.Fatal(err)
	}
	before, err := stream.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}

	next := w.successor()
	if err := next.Recover(ctx); err != nil {
		t.Fatal(err)
	}
	subjects := func(s jetstream.Stream) string {
		t.Helper()
		info, err := s.Info(ctx, jetstream.WithSubjectFilter(">"))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, subject := range slices.Sorted(maps.Keys(info.State.Subjects)) {
			names = append(names, strings.TrimPrefix(subject, "reported."))
		}
		return strings.Join(names, " ")
	}
	if got, want := subjects(w.stream("plant-a")), "plant-a.a1._.events.default.newer plant-a.a1._.events.default.waits plant-a.a1._.pods.default.web"; got != want {
		t.Errorf("plant-a has %s, want %s", got, want)
	}
	if after, err := stream.Info(ctx); err != nil || after.State.LastSeq != before.State.LastSeq || int(after.State.Msgs) != len(large)+1 {
		t.Errorf("plant-b has %d messages up to %d, want %d up to %d: %v", after.State.Msgs, after.State.LastSeq, len(large)+1, before.State.LastSeq, err)
	}
	if m, err := w.stream("plant-a").GetLastMsgForSubject(ctx, newer.Subject); err != nil || m.Header.Get(jetstream.MsgIDHeader) != "newer" {
		t.Errorf("the newer report was replaced: %+v, %v", m, err)
	}
	if m, err := w.stream("plant-b").GetLastMsgForSubject(ctx, event("plant-b", "deferred").Subject); err != nil || m.Header.Get(jetstream.MsgIDHeader) != "plant-bdeferred" || m.Header.Get(headerStored) == "" {
		t.Errorf("moved: %+v, %v", m, err)
	}
	if got := subjects(old); got != "plant-c.c1._.events.default.unknown" {
		t.Errorf("the old stream has %s", got)
	}
	if _, err := w.hub.Bucket.Get(ctx, formerDeferred+hex.EncodeToString([]byte("plant-b"))); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("the old key: %v", err)
	}
	next.start()
	next.await("all dealt with", func() bool { return next.behind("plant-a") == 0 && next.behind("plant-b") == 0 })
	w.addSite("plant-c", "c1", "other")
	if err := next.reader.table.List(ctx); err != nil { // as it does once a minute
		t.Fatal(err)
	}
	next.await("the last is moved, and the old stream deleted", func() bool {
		_, err := js.Stream(ctx, streams.SharedReported)
		return errors.Is(err, jetstream.ErrStreamNotFound)
	})
	next.await("all dealt with", func() bool { return next.behind("plant-c") == 0 })
	if n := next.count.Quarantined.Load(); n != 0 {
		t.Errorf("%d reports are in quarantine", n)
	}
}
