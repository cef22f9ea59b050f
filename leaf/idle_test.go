package leaf

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
)

// TestNobodyTriesToReachTheHub takes the embedded server's remote out of service, so that
// it is disconnected and does not try: the leaf notices and connects again.
func TestNobodyTriesToReachTheHub(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	s.maxIdleChecks = 2
	s.start(t, ctx)
	s.up(t)
	opts, err := server.ProcessConfigFile(s.cfg.NATS.ConfigFile)
	if err != nil {
		t.Fatal(err)
	}
	opts.NoSigs, opts.JetStreamMaxStore = true, server.JetStreamMaxStoreDefault
	for _, r := range opts.LeafNode.Remotes {
		r.Disabled = true
	}
	if err := s.host.server().ReloadOptions(opts); err != nil {
		t.Fatal(err)
	}
	polltest.Eventually(t, "link down", func() bool { up, _, _ := s.link.State(); return !up })
	putDesired(t, ctx, s, "one", 1)
	s.up(t)
	polltest.Eventually(t, "connection to the new server", func() bool { _, err := s.nc.RTT(); return err == nil })
	polltest.Eventually(t, "convergence", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
	if n := counted(t, s, "petiole_leaf_server_restarts_total"); n != 1 {
		t.Errorf("%v restarts, want 1", n)
	}
}

// TestAttemptsAreSeen is away from the hub for longer than the supervisor's patience, before the
// first connection and after it: nats-server tries all the time, and is not restarted. A hub
// that does not run refuses connections, a cut line ends them.
func TestAttemptsAreSeen(t *testing.T) {
	t.Parallel()
	for name, connected := range map[string]bool{"refused from the start": false, "refused later": true, "cut later": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, ctx := newSite(t)
			s.maxIdleChecks = 2
			leave, back := s.line.Cut, s.line.Heal
			if name != "cut later" {
				s.cfg.NATS.ConfigFile = natstest.LeafConf(t, "plant-a", s.hubServer.LeafAddr())
				leave, back = s.hubServer.Stop, func() { s.hubServer.Start(t) }
			}
			if !connected {
				leave()
			}
			s.start(t, ctx)
			if connected {
				s.up(t)
				leave()
				polltest.Eventually(t, "link down", func() bool { up, _, _ := s.link.State(); return !up })
			}
			looks := s.store.idleLimit() + 2
			time.Sleep(time.Duration(looks) * checkInterval) // the outage itself
			back()
			s.up(t)
			if n := counted(t, s, "petiole_leaf_server_restarts_total"); n != 0 {
				t.Errorf("%v restarts, want none", n)
			}
		})
	}
}

// TestAttemptsLogged logs the 1st, 2nd, 4th, 8th failed attempt, and everything else.
func TestAttemptsLogged(t *testing.T) {
	var a attempts
	logged := 0
	for n := 1; n <= 1000; n++ {
		if a.observe(attemptFailed+" %q (attempt %v): %v", []any{"hub:7422", n, "refused"}) {
			logged++
		}
	}
	if logged != 10 || !a.seen.Swap(false) {
		t.Errorf("%d of 1,000 failed attempts are logged, want 10", logged)
	}
	if !a.observe("Server is ready", nil) || a.seen.Load() {
		t.Error("a line that is no attempt is one")
	}
}
