package leaf

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

// TestErasedSecretStaysAwayAfterAKill has a leaf erase a deleted Secret, and kills it before the
// tombstone is stored, without a link at the next start: the former value of the Secret is not back,
// and everything else is there, whether the Secret was the last message of the stream or not.
func TestErasedSecretStaysAwayAfterAKill(t *testing.T) {
	t.Parallel()
	for name, order := range map[string][]string{"inside": {"secret", "kept"}, "last": {"kept", "secret"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, ctx := startSite(t)
			m := secret("gone")
			subject := streams.DesiredSubject("plant-a", m.Ref)
			stored := func() { polltest.Eventually(t, "empty backlog", func() bool { return backlog(t, ctx, s) == 0 }) }
			for _, what := range order {
				if what == "kept" {
					putDesired(t, ctx, s, "kept", "remains")
				}
				for _, version := range []string{"1", "2"} {
					if m.Version, m.Object = version, []byte(`{"metadata":{"name":"gone"}}`); what == "secret" {
						if _, err := streams.Put(ctx, s.hub, subject, m); err != nil {
							t.Fatal(err)
						}
					}
					stored()
				}
			}
			// The site's stream takes what it has, but not a tombstone of this size.
			cfg := s.desired(t, ctx).CachedInfo().Config
			cfg.MaxMsgSize = 2000
			if _, err := s.js.UpdateStream(ctx, cfg); err != nil {
				t.Fatal(err)
			}
			m.Op, m.Version, m.Object, m.UID = streams.OpDelete, "3", nil, strings.Repeat("u", 2000)
			if _, err := streams.Put(ctx, s.hub, subject, m); err != nil {
				t.Fatal(err)
			}
			has := func() bool {
				_, err := s.desired(t, ctx).GetLastMsgForSubject(ctx, subject)
				if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
					t.Fatal(err)
				}
				return err == nil
			}
			polltest.Eventually(t, "erased", func() bool { return !has() })
			s.kill(t, ctx)
			if has() {
				t.Error("a former value of the Secret is back")
			}
			if opAt(t, ctx, s, "kept") != streams.OpPut {
				t.Error("another object has gone")
			}
			select {
			case <-s.store.Desired().Complete():
			default:
				t.Error("the desired state counts as incomplete")
			}
			if n := counted(t, s, "petiole_leaf_streams_rebuilt_total"); n > 0 {
				t.Errorf("%v streams were created again", n)
			}
			s.line.Heal()
			polltest.Eventually(t, "the tombstone at the site", func() bool { return backlog(t, ctx, s) == 0 && has() && same(t, ctx, s) })
		})
	}
}

// kill ends the leaf as a kill does, and starts it again without a link.
func (s *site) kill(t *testing.T, ctx context.Context) {
	t.Helper()
	kept := map[string]string{s.host.StoreDir(): t.TempDir(), s.cfg.DataDir: t.TempDir()}
	for from, to := range kept {
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	s.line.Cut()
	s.restart(t, ctx, func(string) {
		for to, from := range kept {
			if err := errors.Join(os.RemoveAll(to), os.CopyFS(to, os.DirFS(from))); err != nil {
				t.Fatal(err)
			}
		}
	})
}
