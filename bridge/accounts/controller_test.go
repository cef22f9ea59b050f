package accounts_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap/zaptest"
	"k8s.io/client-go/util/workqueue"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
)

// siteSet are the Sites of a test.
type siteSet struct {
	mu    sync.Mutex
	sites map[string]accounts.Site
}

func (s *siteSet) SiteNames() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.sites))
}

func (s *siteSet) SiteSpec(name string) (accounts.Site, map[string]string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	site, ok := s.sites[name]
	return site, nil, ok
}

// running is a controller that runs.
type running struct {
	*accounts.Controller
	sites   *siteSet
	stop    func()
	deposed atomic.Bool
}

var errDeposed = errors.New("another bridge leads")

func (r *running) apply(s accounts.Site) {
	r.sites.mu.Lock()
	r.sites.sites[s.Name] = s
	r.sites.mu.Unlock()
	r.Changed(s.Name)
}

func (r *running) remove(name string) {
	r.sites.mu.Lock()
	delete(r.sites.sites, name)
	r.sites.mu.Unlock()
	r.Changed(name)
}

// reaches waits for an outcome.
func (r *running) reaches(t *testing.T, site string, want accounts.Outcome) accounts.State {
	t.Helper()
	var s accounts.State
	polltest.Eventually(t, site+" has its accounts", func() bool {
		var ok bool
		s, ok = r.State(site)
		return ok && s.Outcome == want
	})
	return s
}

func startController(t *testing.T, keys *accounts.Keys, resolver *accounts.Resolver, sites *siteSet) *running {
	t.Helper()
	r := &running{sites: sites}
	retries := workqueue.NewTypedItemExponentialFailureRateLimiter[string](50*time.Millisecond, 500*time.Millisecond)
	r.Controller = accounts.New(accounts.Config{
		Keys: keys, Resolver: resolver, Sites: sites, Workers: 2, Queue: workqueue.NewTypedRateLimitingQueue(retries),
		Check: func() error {
			if r.deposed.Load() {
				return errDeposed
			}
			return nil
		},
		OnChanged: func() {}, Report: func(string, error) {}, Log: zaptest.NewLogger(t),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// TestAccountsFollowTheSites creates, changes, revokes and deletes Sites, and has the hub lose
// accounts, be away, and a bridge that led no longer.
func TestAccountsFollowTheSites(t *testing.T) {
	h := natstest.StartOperatorHub(t)
	u, next := natstest.NewUser(t), natstest.NewUser(t)
	sites := &siteSet{sites: map[string]accounts.Site{}}
	r := startController(t, h.Keys, h.Resolver, sites)

	start := time.Now()
	r.apply(accounts.Site{Name: "plant-a", Gateways: []string{u.Public}, Operators: []string{next.Public}})
	s := r.reaches(t, "plant-a", accounts.Stored)
	l, err := dialLeaf(t, h, s.Gateways[0].Token, u)
	must(t, err)
	t.Logf("MEASURED applied → connected: %s", time.Since(start).Round(time.Millisecond))
	operator, err := nats.Connect(h.URL(), nats.UserCredentials(natstest.WriteCreds(t, s.Operators[0].Token, next)))
	must(t, err)
	operator.Close()

	start = time.Now()
	r.apply(accounts.Site{Name: "plant-a"})
	l.closed(t)
	t.Logf("MEASURED revoked → gone: %s", time.Since(start).Round(time.Millisecond))
	r.reaches(t, "plant-a", accounts.Revoked)
	if _, err := nats.Connect(h.URL(), nats.UserCredentials(natstest.WriteCreds(t, s.Operators[0].Token, next))); err == nil {
		t.Error("an operator of a site without operators is let in")
	}

	// A mistyped key does not keep the one that was taken out.
	r.apply(accounts.Site{Name: "plant-a", Gateways: []string{u.Public}})
	r.reaches(t, "plant-a", accounts.Stored)
	l, err = dialLeaf(t, h, s.Gateways[0].Token, u)
	must(t, err)
	r.apply(accounts.Site{Name: "plant-a", Gateways: []string{"UNOBODY"}})
	l.closed(t)
	if s := r.reaches(t, "plant-a", accounts.Invalid); s.Message == "" {
		t.Error("nothing says which key is not valid")
	}

	// The hub loses an account, and another bridge makes one for a site that does not exist: the
	// next bridge that leads finds both.
	r.apply(accounts.Site{Name: "plant-a", Gateways: []string{next.Public}})
	s = r.reaches(t, "plant-a", accounts.Stored)
	r.stop()
	must(t, h.Resolver.Delete(t.Context(), s.Account))
	h.Store(t, accounts.Site{Name: "gone", Gateways: []string{u.Public}, Operators: []string{u.Public}})
	r = startController(t, h.Keys, h.Resolver, sites)
	polltest.Eventually(t, "accounts are as the Sites want them", func() bool {
		list, err := h.Resolver.List(t.Context())
		must(t, err)
		return len(list) == 3 && slices.Contains(list, s.Account) // SYS, FABRIC, plant-a
	})
	l, err = dialLeaf(t, h, s.Gateways[0].Token, next)
	must(t, err)

	r.remove("plant-a")
	l.closed(t)
	polltest.Eventually(t, "the account is gone", func() bool { _, ok := r.State("plant-a"); return !ok })

	// A bridge that does not lead does not write.
	r.deposed.Store(true)
	r.apply(accounts.Site{Name: "plant-b", Gateways: []string{u.Public}})
	if s := r.reaches(t, "plant-b", accounts.Unavailable); s.Message != errDeposed.Error() {
		t.Errorf("%s", s.Message)
	}
	r.deposed.Store(false)
	r.reaches(t, "plant-b", accounts.Stored)
}

// TestAccountsWaitForTheHub: a Site that is applied while the hub is away is served when it is
// back, and says so meanwhile.
func TestAccountsWaitForTheHub(t *testing.T) {
	h := natstest.StartOperatorHub(t)
	u := natstest.NewUser(t)
	r := startController(t, h.Keys, h.Resolver, &siteSet{sites: map[string]accounts.Site{}})
	h.Stop()
	r.apply(accounts.Site{Name: "plant-a", Gateways: []string{u.Public}})
	r.reaches(t, "plant-a", accounts.Unavailable)
	h.Restart(t)
	s := r.reaches(t, "plant-a", accounts.Stored)
	_, err := dialLeaf(t, h, s.Gateways[0].Token, u)
	must(t, err)
}

// TestRestoredHubLetsNoRevokedGatewayIn: the hub's folder of accounts is restored from a backup in
// which a gateway was listed that was revoked since, and a Site existed that was deleted since.
func TestRestoredHubLetsNoRevokedGatewayIn(t *testing.T) {
	h := natstest.StartOperatorHub(t)
	old, next := natstest.NewUser(t), natstest.NewUser(t)
	r := startController(t, h.Keys, h.Resolver, &siteSet{sites: map[string]accounts.Site{}})
	for _, site := range []string{"plant-a", "plant-b"} {
		r.apply(accounts.Site{Name: site, Gateways: []string{old.Public}})
		r.reaches(t, site, accounts.Stored)
	}
	backup := filepath.Join(t.TempDir(), "accounts")
	must(t, os.CopyFS(backup, os.DirFS(h.AccountsDir())))
	r.apply(accounts.Site{Name: "plant-a", Gateways: []string{next.Public}})
	r.remove("plant-b")
	lets := func(site string, u natstest.User) bool {
		l, err := dialLeaf(t, h, token(t, h, site, u), u)
		_ = l.Close()
		return err == nil
	}
	polltest.Eventually(t, "the old gateway is revoked", func() bool { return !lets("plant-a", old) && !lets("plant-b", old) && lets("plant-a", next) })

	h.Stop()
	must(t, os.RemoveAll(h.AccountsDir()))
	must(t, os.CopyFS(h.AccountsDir(), os.DirFS(backup)))
	h.Restart(t)
	h.Connect(t, accounts.BridgeCreds) // waits for the hub
	start := time.Now()
	polltest.Eventually(t, "the restored hub has the accounts of today", func() bool { return lets("plant-a", next) && !lets("plant-a", old) && !lets("plant-b", old) })
	took := time.Since(start)
	t.Logf("MEASURED hub restored → revoked gateways are refused: %s", took.Round(time.Millisecond))
}

// TestRevocationReachesAHubThatLoadsTheAccount revokes gateways and deletes Sites while they connect for
// the first time since the hub has started: it may have read the account before the change, and begin to
// use it after that (docs/upstream.md, 28).
func TestRevocationReachesAHubThatLoadsTheAccount(t *testing.T) {
	h := natstest.StartOperatorHub(t)
	old, next := natstest.NewUser(t), natstest.NewUser(t)
	r := startController(t, h.Keys, h.Resolver, &siteSet{sites: map[string]accounts.Site{}})
	const sites = 60
	tokens := map[string]string{}
	for i := range sites {
		site := fmt.Sprintf("plant-%d", i)
		r.apply(accounts.Site{Name: site, Gateways: []string{old.Public}})
		tokens[site] = r.reaches(t, site, accounts.Stored).Gateways[0].Token
	}
	for i, site := range slices.Sorted(maps.Keys(tokens)) {
		if i%2 == 0 {
			r.apply(accounts.Site{Name: site, Gateways: []string{next.Public}})
		} else {
			r.remove(site)
		}
		// The change is on its way. Some connections are before it, some after it.
		for range 3 {
			l, _ := dialLeaf(t, h, tokens[site], old)
			_ = l.Close()
		}
	}
	polltest.Eventually(t, "no old gateway is let in", func() bool {
		for site, token := range tokens {
			l, err := dialLeaf(t, h, token, old)
			_ = l.Close()
			if err == nil {
				return false
			}
			delete(tokens, site)
		}
		return true
	})
}

// TestUpstreamUsesReplacedClaims: a server that loads an account while other claims are stored may use the
// former ones, and go on with them.
func TestUpstreamUsesReplacedClaims(t *testing.T) {
	h := natstest.StartOperatorHub(t)
	old, next := natstest.NewUser(t), natstest.NewUser(t)
	for i := range 2000 {
		site := accounts.Site{Name: fmt.Sprintf("plant-%d", i), Gateways: []string{old.Public}}
		h.Store(t, site)
		user, stored := token(t, h, site.Name, old), make(chan error, 1)
		site.Gateways = []string{next.Public}
		claims, err := h.Keys.Claims(site)
		must(t, err)
		go func() { stored <- h.Resolver.Store(context.Background(), claims[0]) }()
		for range 3 {
			l, _ := dialLeaf(t, h, user, old)
			_ = l.Close()
		}
		must(t, <-stored)
		if l, err := dialLeaf(t, h, user, old); err == nil {
			_ = l.Close()
			t.Logf("account %d: the hub lets in whom the claims that it has stored do not", i)
			return
		}
	}
	t.Error("nats-server uses the claims that were stored last: bridge/accounts/settle.go can go")
}

// TestTheNextBridgeFinishesARevocation: a bridge ends after it has stored a change and deleted users once.
func TestTheNextBridgeFinishesARevocation(t *testing.T) {
	h := natstest.StartOperatorHub(t)
	u, next := natstest.NewUser(t), natstest.NewUser(t)
	sites := &siteSet{sites: map[string]accounts.Site{}}
	r := startController(t, h.Keys, h.Resolver, sites)
	account := map[string]string{}
	for _, site := range []string{"plant-a", "plant-b"} {
		r.apply(accounts.Site{Name: site, Gateways: []string{u.Public}})
		account[site] = r.reaches(t, site, accounts.Stored).Account
	}
	settling := func(site string) bool {
		c, err := h.Resolver.Lookup(t.Context(), account[site])
		must(t, err)
		return c != nil && c.Tags.Contains("petiole-settling")
	}
	r.apply(accounts.Site{Name: "plant-a", Gateways: []string{next.Public}})
	r.remove("plant-b")
	polltest.Eventually(t, "both are stored once", func() bool { return settling("plant-a") && settling("plant-b") })
	r.stop()
	if !settling("plant-a") || !settling("plant-b") {
		t.Fatal("the bridge has not ended in time")
	}
	startController(t, h.Keys, h.Resolver, sites)
	polltest.Eventually(t, "the change is stored twice, the account deleted", func() bool {
		list, err := h.Resolver.List(t.Context())
		must(t, err)
		return !settling("plant-a") && slices.Contains(list, account["plant-a"]) && !slices.Contains(list, account["plant-b"])
	})
}

// TestWithoutKeys: who asks for accounts of a bridge that has no keys is told.
func TestWithoutKeys(t *testing.T) {
	r := startController(t, nil, nil, &siteSet{sites: map[string]accounts.Site{}})
	r.apply(accounts.Site{Name: "plant-a", Gateways: []string{natstest.NewUser(t).Public}})
	r.apply(accounts.Site{Name: "plant-b"})
	r.reaches(t, "plant-a", accounts.NotConfigured)
	r.apply(accounts.Site{Name: "plant-a"})
	polltest.Eventually(t, "nothing is said", func() bool { _, ok := r.State("plant-a"); return !ok })
	if _, ok := r.State("plant-b"); ok {
		t.Error("a Site that asks for nothing has a state")
	}
}
