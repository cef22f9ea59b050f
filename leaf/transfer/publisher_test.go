package transfer

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/streams"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestLocalStoreIsNotAwaitedAtTheLinksPace bounds how long SITE_DESIRED is held.
func TestLocalStoreIsNotAwaitedAtTheLinksPace(t *testing.T) {
	batch := []*nats.Msg{{Data: make([]byte, 128<<10)}, {Data: make([]byte, 128<<10)}}
	if got := (Publisher{domain: "plant-a"}).ackTimeout(batch); got != ackWait {
		t.Errorf("the site's own store is awaited for %s", got)
	}
	if got := (Publisher{domain: streams.HubDomain}).ackTimeout(batch); got != HubWait+64*time.Second {
		t.Errorf("the hub is awaited for %s", got)
	}
}

// TestAcknowledgementOfAnotherDomain has the site's own JetStream acknowledge what the hub should
// have stored.
func TestAcknowledgementOfAnotherDomain(t *testing.T) {
	hub := Publisher{domain: streams.HubDomain}
	if err := hub.check(streams.Ack{Stream: streams.Telemetry("plant-a"), Domain: streams.HubDomain}); err != nil {
		t.Error(err)
	}
	for _, domain := range []string{"plant-a", ""} {
		if err := hub.check(streams.Ack{Stream: streams.SiteTelemetry, Domain: domain}); err == nil {
			t.Errorf("an acknowledgement of domain %q counts", domain)
		}
	}
}

// TestPutStoresOnce puts batches that hold messages of earlier ones, as after a lost
// acknowledgement, and one with a message that no stream takes: what was stored is stored once, and of
// the last one nothing.
func TestPutStoresOnce(t *testing.T) {
	nc := natstest.StartHub(t, "plant-a").Connect(t, "bridge")
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := streams.Ensure(t.Context(), js, streams.SiteStreams("plant-a", streams.SiteLimits{})); err != nil {
		t.Fatal(err)
	}
	batch := func(from, to, size int) (msgs []*nats.Msg) {
		for i := from; i <= to; i++ {
			m := nats.NewMsg(streams.TelemetrySubject("plant-a", "sample", "default", "pump"))
			m.Header.Set(jetstream.MsgIDHeader, fmt.Sprint(i))
			m.Data = make([]byte, size)
			msgs = append(msgs, m)
		}
		return msgs
	}
	stored := func() uint64 {
		t.Helper()
		s, err := js.Stream(t.Context(), streams.Telemetry("plant-a"))
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().State.Msgs
	}
	p := NewPublisher(nc, streams.HubDomain)
	for _, one := range []struct {
		from, to int
		want     uint64
	}{{1, 1, 1}, {1, 4, 4}, {2, 4, 4}, {3, 8, 8}} {
		if err := p.Put(t.Context(), batch(one.from, one.to, 10)); err != nil {
			t.Fatalf("%d to %d: %v", one.from, one.to, err)
		}
		if got := stored(); got != one.want {
			t.Errorf("%d messages are stored after %d to %d, want %d", got, one.from, one.to, one.want)
		}
	}
	msgs := batch(9, 11, 10)
	msgs[1].Subject = "nobody.stores.this"
	if err := p.Put(t.Context(), msgs); err == nil {
		t.Error("a batch with a message that no stream takes is acknowledged")
	}
	if got := stored(); got != 8 {
		t.Errorf("%d messages are stored after a batch that was refused, want 8", got)
	}
	if err := NewPublisher(nc, "plant-a").Put(t.Context(), batch(12, 13, 10)); err == nil {
		t.Error("an acknowledgement of the hub counts for the site")
	}
}
