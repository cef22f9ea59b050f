package leaf

import (
	"testing"
	"time"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/leaf/store"
)

// TestNobodyTriesToReachTheHub starts the embedded server with its remote out of service, so that
// it is disconnected and does not try, until its configuration is read again: the leaf notices
// and restarts it. TestIdleUntilRestarted in natsd takes the remote of a connected server away.
func TestNobodyTriesToReachTheHub(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	s.maxIdleChecks = 2
	const inService, outOfService = "ignore_discovered_servers: true", "ignore_discovered_servers: true, disabled: true"
	s.configure(t, inService, outOfService)
	s.start(t, ctx)
	s.configure(t, outOfService, inService)
	if up, _, _ := s.link.State(); up {
		t.Fatal("the link is up: the test has proved nothing")
	}
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
			patience := time.Duration(s.maxIdleChecks)*store.CheckInterval + s.host.AttemptInterval()
			time.Sleep(patience + 2*store.CheckInterval) // the outage itself
			back()
			s.up(t)
			if n := counted(t, s, "petiole_leaf_server_restarts_total"); n != 0 {
				t.Errorf("%v restarts, want none", n)
			}
		})
	}
}
