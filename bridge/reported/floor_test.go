package reported

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/bridge/lease"
	"github.com/petiole-io/petiole/streams"
)

// Only the bridge that leads writes a floor, and not over one that it has not read. A floor of
// another stream, or beyond the end of the stream, is none.
func TestFloorIsFenced(t *testing.T) {
	t.Parallel()
	w := startWriting(t, accepts)
	ctx, bucket, created := t.Context(), w.hub.Bucket, time.Now()
	load := func(of time.Time, last uint64) floor {
		t.Helper()
		f, err := loadFloor(ctx, bucket, "plant-a", of, last)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	if _, err := load(created, 0).store(ctx, bucket, lease.NewFence(time.Now), "plant-a", created, 5); !errors.Is(err, lease.ErrNotLeading) {
		t.Errorf("written by a bridge that does not lead: %v", err)
	}
	if f := load(created, 9); f.known {
		t.Fatalf("%+v is stored", f)
	}
	first, err := load(created, 9).store(ctx, bucket, leadingFence(), "plant-a", created, 5)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.store(ctx, bucket, leadingFence(), "plant-a", created, 7); err != nil {
		t.Fatal(err)
	}
	if _, err := first.store(ctx, bucket, leadingFence(), "plant-a", created, 6); !isWrongRevision(err) {
		t.Errorf("written over what another bridge has written: %v", err)
	}
	for _, test := range []struct {
		of   time.Time
		last uint64
		want uint64
	}{{created, 7, 7}, {created, 9, 7}, {created, 6, 0}, {created.Add(time.Second), 9, 0}} {
		if f := load(test.of, test.last); f.seq != test.want {
			t.Errorf("of the stream of %v that ends at %d: %+v, want %d", test.of, test.last, f, test.want)
		}
	}
}

// The keys of Sites that were deleted while no bridge ran are removed, and no others.
func TestFloorsOfDeletedSitesAreRemoved(t *testing.T) {
	t.Parallel()
	w := startWriting(t, accepts)
	for _, site := range []string{"plant-a", "deleted"} {
		if _, err := (floor{}).store(t.Context(), w.hub.Bucket, leadingFence(), site, time.Now(), 5); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.hub.Bucket.Get(t.Context(), bucketKey(floorPrefix, "deleted")); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("the key of a deleted site: %v", err)
	}
	if _, err := w.hub.Bucket.Get(t.Context(), bucketKey(floorPrefix, "plant-a")); err != nil {
		t.Errorf("the key of a site: %v", err)
	}
}

// A site whose stream is full is refused, and no other; once there is room it goes on.
func TestFullStreamRefusesItsSiteOnly(t *testing.T) {
	t.Parallel()
	w := startFlooded(t, accepts)
	cfg := w.stream("plant-b").CachedInfo().Config
	cfg.MaxMsgs = 3
	if _, err := w.hub.JS.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"p0", "p1", "p2"} {
		w.send(incomplete(name))
	}
	_, err := w.hub.JS.PublishMsg(t.Context(), incomplete("p3"))
	var api *jetstream.APIError
	if !errors.As(err, &api) || api.ErrorCode != 10077 {
		t.Errorf("a report beyond the bound: %v", err)
	}
	w.send(incomplete("p0")) // replaces what is there
	w.start()
	w.say("first")
	w.await("another site's report written", func() bool { return w.count.Accepted.Load() == 1 })
	w.ahead.Store(int64(2 * maxPartsWait))
	w.await("room again", func() bool {
		_, err := w.hub.JS.PublishMsg(t.Context(), put(streams.ReportedSubject("plant-b", streams.Ref{Node: "b1", Resource: "events", Namespace: "default", Name: "e"}), `{"metadata":{"name":"e"}}`))
		return err == nil
	})
	w.await("written", func() bool { return w.count.Accepted.Load() > 1 })
}

// Reports of which the bridge was not notified are written with the next one, or when the streams
// are listed.
func TestLostNotificationsAreMadeUpFor(t *testing.T) {
	t.Parallel()
	w := startFlooded(t, accepts)
	if err := w.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.say("first")
	w.await("written", func() bool { return w.count.Accepted.Load() == 1 })
	notify := w.stream("plant-b").CachedInfo().Config
	silent := notify
	silent.RePublish = nil
	update := func(cfg jetstream.StreamConfig) {
		t.Helper()
		if _, err := w.hub.JS.UpdateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	event := func(name string) {
		w.send(put(streams.ReportedSubject("plant-b", streams.Ref{Node: "b1", Resource: "events", Namespace: "default", Name: name}), `{"metadata":{"name":"`+name+`"}}`))
	}
	update(silent)
	event("gap-1")
	event("gap-2")
	if last := w.reader.table.Tail("plant-b").Last; last != 0 {
		t.Fatalf("notified of %d: nothing is tested", last)
	}
	update(notify)
	event("after")
	w.await("the gap written", func() bool { return w.count.Accepted.Load() == 4 })
	update(silent)
	event("tail")
	if last := w.reader.table.Tail("plant-b").Last; last != 3 {
		t.Fatalf("notified of %d: nothing is tested", last)
	}
	if err := w.reader.table.List(t.Context()); err != nil { // as it does once a minute
		t.Fatal(err)
	}
	w.await("the tail written", func() bool { return w.count.Accepted.Load() == 5 && w.behind("plant-b") == 0 })
}
