package transfer

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

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
	if err := hub.check(streams.Ack{Stream: streams.Telemetry, Domain: streams.HubDomain}); err != nil {
		t.Error(err)
	}
	for _, domain := range []string{"plant-a", ""} {
		if err := hub.check(streams.Ack{Stream: streams.SiteTelemetry, Domain: domain}); err == nil {
			t.Errorf("an acknowledgement of domain %q counts", domain)
		}
	}
}
