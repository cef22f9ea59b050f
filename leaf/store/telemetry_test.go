package store

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/petiole-io/petiole/streams"
)

// TestLimitIsWrittenAgain has the server fail to store half of a limit of SITE_TELEMETRY, which it
// then reports as if it were stored: the supervisor writes it again.
func TestLimitIsWrittenAgain(t *testing.T) {
	s, ctx := newSite(t)
	s.open(t, ctx)
	if err := s.store.Open(ctx); err != nil {
		t.Fatal(err)
	}
	at, err := s.server.Find(streams.SiteTelemetry)
	if err != nil {
		t.Fatal(err)
	}
	sum := filepath.Join(s.server.StoreDir(), at.Account, "streams", at.Stream, "meta.sum")
	before, err := os.ReadFile(sum)
	if err != nil {
		t.Fatal(err)
	}
	blocked := sum + ".tmp" // through which nats-server writes the checksum
	if err := os.Mkdir(blocked, 0o700); err != nil {
		t.Fatal(err)
	}
	little := space{free: 66 << 20, total: 1 << 40}
	if err := s.store.telemetry.adjust(ctx, little); err == nil {
		t.Fatal("a limit is accepted that cannot be stored; docs/upstream.md can be shortened")
	}
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	if err := s.store.telemetry.adjust(ctx, little); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(sum); err != nil || bytes.Equal(after, before) {
		t.Errorf("the checksum is %s as before the change (%v)", after, err)
	}
}
