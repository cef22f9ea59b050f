package desired

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/streams"
)

// A site has streams of its own as soon as its Site exists. They end with it, and what it sends
// afterwards is not acknowledged.
func TestASiteHasStreamsOfItsOwn(t *testing.T) {
	t.Parallel()
	p := startPublishing(t)
	c := NewConsumers(p.Reconciler, hub.Room{})
	reconcile := func() {
		t.Helper()
		if _, _, err := c.Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	record := func(site string) error {
		_, err := p.hub.JS.Publish(t.Context(), streams.TelemetrySubject(site, "sample", "default", "pump"), []byte("1"), jetstream.WithRetryAttempts(0))
		return err
	}
	if err := record("plant-a"); !errors.Is(err, nats.ErrNoResponders) && !errors.Is(err, jetstream.ErrNoStreamResponse) {
		t.Fatalf("a record of a site without a Site: %v", err)
	}
	for _, site := range []string{"plant-a", "plant-b"} {
		p.set(siteKey(site), map[string]any{})
	}
	p.await("Sites seen", func() bool { return len(p.NodesBySite()) == 2 })
	reconcile()
	for _, site := range []string{"plant-a", "plant-b"} {
		if err := record(site); err != nil {
			t.Fatalf("a record of %s: %v", site, err)
		}
		s, err := p.hub.JS.Stream(t.Context(), streams.Telemetry(site))
		if err != nil || s.CachedInfo().State.Msgs != 1 {
			t.Fatalf("the stream of %s: %v", site, err)
		}
	}
	p.vanish(siteKey("plant-a"))
	p.await("deletion seen", func() bool { return len(p.NodesBySite()) == 1 })
	reconcile()
	p.await("the streams are gone", func() bool {
		_, err := p.hub.JS.Stream(t.Context(), streams.Telemetry("plant-a"))
		return errors.Is(err, jetstream.ErrStreamNotFound)
	})
	if err := record("plant-a"); err == nil {
		t.Error("a record of a site that was deleted is acknowledged")
	}
	if err := record("plant-b"); err != nil {
		t.Errorf("a record of the other site: %v", err)
	}
}

// siteObject is a Site with room at the hub as its spec says.
func siteObject(hubStorage string) map[string]any {
	if hubStorage == "" {
		return map[string]any{}
	}
	return map[string]any{"spec": map[string]any{"limits": map[string]any{"hubStorage": hubStorage}}}
}

// A site for which the hub has no room is the only one that has no streams. It has its desired
// state, the reason is known, and it gets streams as soon as there is room.
func TestSitesWithoutRoom(t *testing.T) {
	t.Parallel()
	p := startPublishing(t)
	const share = streams.MinSiteBytes
	const others = 65 << 20 // QUARANTINE, and a byte for each stream without a bound
	filler, err := p.hub.JS.CreateStream(t.Context(), jetstream.StreamConfig{Name: "FILLER", Subjects: []string{"filler"}, MaxBytes: natstest.MaxFileStore - others - 2*share})
	if err != nil {
		t.Fatal(err)
	}
	c := NewConsumers(p.Reconciler, hub.Room{Bytes: 4 * share, MaxSites: 4})
	reconcile := func(sites int) {
		t.Helper()
		found, _, err := c.Reconcile(t.Context())
		if err != nil || len(found) != sites {
			t.Fatalf("%d consumers, want %d: %v", len(found), sites, err)
		}
	}
	for _, site := range []string{"a", "b", "c"} {
		p.set(siteKey(site), siteObject(""))
	}
	p.await("Sites seen", func() bool { return len(p.NodesBySite()) == 3 })
	reconcile(3)
	if c.StorageProblem("a") != nil || c.StorageProblem("b") != nil || !hub.IsNoRoom(c.StorageProblem("c")) {
		t.Errorf("the problems of a, b, c: %v, %v, %v", c.StorageProblem("a"), c.StorageProblem("b"), c.StorageProblem("c"))
	}
	if err := p.hub.JS.DeleteStream(t.Context(), filler.CachedInfo().Config.Name); err != nil {
		t.Fatal(err)
	}
	reconcile(3)
	if c.StorageProblem("c") == nil {
		t.Error("a site without room is tried again at once, every round")
	}
	again := c.streams.known["c"]
	again.retry = time.Time{}
	c.streams.known["c"] = again
	reconcile(3)
	if err := c.StorageProblem("c"); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// The number of sites that get streams is limited, so that each has its share. One that has
// streams keeps them.
func TestTooManySites(t *testing.T) {
	t.Parallel()
	p := startPublishing(t)
	room := hub.Room{Bytes: 2 * streams.MinSiteBytes, MaxSites: 2}
	for _, site := range []string{"b", "c"} {
		p.set(siteKey(site), siteObject(""))
	}
	p.await("Sites seen", func() bool { return len(p.NodesBySite()) == 2 })
	if _, _, err := NewConsumers(p.Reconciler, room).Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.set(siteKey("a"), siteObject(""))
	p.await("Site seen", func() bool { return len(p.NodesBySite()) == 3 })
	c := NewConsumers(p.Reconciler, room) // the next bridge
	if found, _, err := c.Reconcile(t.Context()); err != nil || len(found) != 3 {
		t.Fatalf("%d consumers: %v", len(found), err)
	}
	if !errors.Is(c.StorageProblem("a"), hub.ErrTooManySites) || c.StorageProblem("b") != nil || c.StorageProblem("c") != nil {
		t.Errorf("the problems of a, b, c: %v, %v, %v", c.StorageProblem("a"), c.StorageProblem("b"), c.StorageProblem("c"))
	}
}

// The streams follow the Site's limits. Those that somebody deleted are created again, and those
// of a Site that does not exist are removed.
func TestStreamsAreKept(t *testing.T) {
	t.Parallel()
	p := startPublishing(t)
	c := NewConsumers(p.Reconciler, hub.Room{Bytes: 400 << 20, MaxSites: 4})
	if err := streams.Ensure(t.Context(), p.hub.JS, streams.SiteStreams("gone", streams.SiteLimits{})); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		storage string
		bytes   int64
	}{{"", 80 << 20}, {"40Mi", 32 << 20}, {"10Gi", 80 << 20}} {
		p.set(siteKey("plant-a"), siteObject(want.storage))
		p.await("Site seen", func() bool { return len(p.NodesBySite()) == 1 && p.changed.Len() == 0 })
		if _, _, err := c.Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
		s, err := p.hub.JS.Stream(t.Context(), streams.Telemetry("plant-a"))
		if err != nil || s.CachedInfo().Config.MaxBytes != want.bytes {
			t.Errorf("with hubStorage %q: %+v, %v, want %d bytes", want.storage, s.CachedInfo().Config.MaxBytes, err, want.bytes)
		}
	}
	p.await("the streams of a Site that does not exist are removed", func() bool {
		_, err := p.hub.JS.Stream(t.Context(), streams.Telemetry("gone"))
		return errors.Is(err, jetstream.ErrStreamNotFound)
	})
	if err := p.hub.JS.DeleteStream(t.Context(), streams.Telemetry("plant-a")); err != nil {
		t.Fatal(err)
	}
	c.streams.listed = time.Time{}
	if _, _, err := c.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.hub.JS.Stream(t.Context(), streams.Telemetry("plant-a")); err != nil {
		t.Errorf("a stream that was deleted: %v", err)
	}
}
