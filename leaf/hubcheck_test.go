package leaf

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/leaf/natsd"
	"github.com/petiole-io/petiole/streams"
)

// TestHubWithoutAnImport has a hub whose account of the site imports everything but one subject, for
// each of them: the leaf names it, and nothing else.
func TestHubWithoutAnImport(t *testing.T) {
	t.Parallel()
	for subject := range streams.ServiceImports("plant-a") {
		// Without a $, which nats-server and nats.go expand in the paths of credentials.
		t.Run(strings.ReplaceAll(subject, "$", ""), func(t *testing.T) {
			t.Parallel()
			s, ctx := newSite(t)
			s.settle = 3 * time.Second
			withoutImport(t, s, subject)
			s.start(t, ctx)
			// On a busy machine the others become known later, and are looked at again.
			polltest.Eventually(t, "the leaf names it alone", func() bool {
				p := s.check.Problems()
				return len(p) == 1 && strings.Contains(p[0], " "+subject+": ")
			})
			if s.check.Err() == nil {
				t.Error("it is no error")
			}
		})
	}
}

// withoutImport restarts the hub without one import of the site's account.
func withoutImport(t *testing.T, s *site, subject string) {
	t.Helper()
	s.hubServer.Stop()
	s.hubServer.WriteSite(t, "plant-a", func(c *jwt.AccountClaims) {
		hub := strings.Replace(subject, "$JS.FABRIC.", "$JS.", 1)
		c.Imports = slices.DeleteFunc(c.Imports, func(i *jwt.Import) bool { return string(i.Subject) == hub })
	})
	s.hubServer.Start(t)
	s.bridge = s.hubServer.Connect(t, "bridge") // at another port
}

// TestLeafNamesWhatTheHubLacks has a whole leaf at a hub that does not take samples: /readyz and the
// heartbeat name it.
func TestLeafNamesWhatTheHubLacks(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	withoutImport(t, s, streams.TelemetryFilter("plant-a"))
	w := startWhole(t, ctx, s)
	const want = "the site's account at the hub does not import telemetry.plant-a.>: samples stay at the site"
	polltest.Eventually(t, "/readyz names it", func() bool {
		code, text := w.get(t, "/readyz")
		return code == http.StatusServiceUnavailable && strings.Contains(text, want)
	})
	polltest.Eventually(t, "a heartbeat names it", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.beats) == 0 {
			return false
		}
		last := w.beats[len(w.beats)-1]
		return slices.Contains(last.Degraded, streams.DegradedHub) && slices.Contains(last.Details, want)
	})
}

// TestHubHasEverything has a hub in order: the leaf finds nothing.
func TestHubHasEverything(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	s.start(t, ctx)
	respond(t, s)
	s.up(t)
	polltest.Eventually(t, "the leaf has checked the hub", func() bool { return s.check.Checked() })
	if p := s.check.Problems(); len(p) > 0 {
		t.Errorf("problems of a hub in order: %q", p)
	}
}

// TestTooSmallMaxPayload refuses a configuration whose messages cannot hold a part of an object.
func TestTooSmallMaxPayload(t *testing.T) {
	t.Parallel()
	conf := natstest.LeafConf(t, "plant-a", "127.0.0.1:1")
	edit(t, conf, func(b []byte) []byte { return append(b, "max_payload: 8KB\n"...) })
	_, err := natsd.Start(t.Context(), natsd.Config{Site: "plant-a", File: conf, Log: zap.NewNop()})
	if err == nil || !strings.Contains(err.Error(), "max_payload: 8192: must be at least 16384") {
		t.Errorf("started with it: %v", err)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(conf), "js")); err == nil {
		t.Error("the store was opened")
	}
}
