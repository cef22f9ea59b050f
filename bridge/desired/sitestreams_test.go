package desired

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
)

// A site has streams of its own as soon as its Site exists. They end with it, and what it sends
// afterwards is not acknowledged.
func TestASiteHasStreamsOfItsOwn(t *testing.T) {
	t.Parallel()
	p := startPublishing(t)
	c := NewConsumers(p.Reconciler, streams.SiteLimits{})
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
