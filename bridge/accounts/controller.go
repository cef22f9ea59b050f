package accounts

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/util/workqueue"
)

// sweepInterval is the time between two comparisons of all accounts at the hub with the Sites.
// Changes of Sites are applied at once; a sweep finds what the hub has lost, and the accounts of
// Sites that were deleted while no bridge led.
const sweepInterval = 30 * time.Second

// Sites knows the Sites.
type Sites interface {
	// SiteNames returns the names of all Sites.
	SiteNames() []string
	// SiteSpec returns what a Site's accounts are made from, and the user JWTs in its status by
	// public key. It returns false if there is no such Site.
	SiteSpec(name string) (s Site, tokens map[string]string, ok bool)
}

// Config is what a Controller needs.
type Config struct {
	// Keys and Resolver are nil if the bridge makes no accounts: then Sites that ask for some
	// are told so.
	Keys     *Keys
	Resolver *Resolver
	Sites    Sites
	// Check returns an error if this bridge must not write.
	Check func() error
	// Queue holds the names of the Sites to look at. Its retries are spaced out.
	Queue   workqueue.TypedRateLimitingInterface[string]
	Workers int
	// Entry is where gateways find the hub. It goes into join tokens.
	Entry Entry
	// OnChanged is called when the state of a Site's accounts has changed.
	OnChanged func()
	// Report is called with the result of each attempt for a site, under its name, and of each
	// sweep, under "".
	Report func(part string, err error)
	Log    *zap.Logger
}

// Entry is where gateways find the hub.
type Entry struct {
	// URL is that of the hub's leaf listener, "" if the bridge does not know it.
	URL string
	// Authorities is the PEM file that verifies the hub's certificate, "" for the authorities
	// that every system knows.
	Authorities string
}

// User is a user of a site's account, with its JWT.
type User struct{ Key, Token string }

// Outcome says how far a Site's accounts have come.
type Outcome int

// The outcomes.
const (
	// Stored: the hub has the accounts as the Site wants them.
	Stored Outcome = iota
	// Revoked: the same, and the Site lists no gateway.
	Revoked
	// Invalid: a key in the Site is not valid. The others apply.
	Invalid
	// NotConfigured: the bridge has no keys.
	NotConfigured
	// Refused: the hub has answered with an error.
	Refused
	// Unavailable: the hub does not answer.
	Unavailable
)

// State is the state of a Site's accounts.
type State struct {
	Outcome Outcome
	// Message is why, if the outcome is neither Stored nor Revoked.
	Message string
	// Account is the public key of the site's account, empty without keys.
	Account             string
	Gateways, Operators []User
	// Join is the user of the join token, nil if there is none, and Entry where it connects.
	Join  *User
	Entry Entry
}

// equal reports whether two states are the same.
func (s State) equal(o State) bool {
	return s.Outcome == o.Outcome && s.Message == o.Message && s.Account == o.Account &&
		slices.Equal(s.Gateways, o.Gateways) && slices.Equal(s.Operators, o.Operators) && s.Entry == o.Entry &&
		(s.Join == nil) == (o.Join == nil) && (s.Join == nil || *s.Join == *o.Join)
}

// Controller keeps the accounts at the hub equal to the Sites. Create it with New.
type Controller struct {
	cfg Config

	mu     sync.Mutex
	states map[string]State
	// stored is what this bridge has last stored or found at the hub for a Site, since it connected
	// to the hub for the connection-th time.
	stored     map[string]string
	connection int
	// waiting are the accounts whose claims are to be stored once more.
	waiting waiting
	// sweepNow has a value if a sweep must not wait for its time.
	sweepNow chan struct{}
}

// New returns a controller that has not started.
func New(cfg Config) *Controller {
	return &Controller{cfg: cfg, states: map[string]State{}, stored: map[string]string{}, waiting: waiting{since: map[string]time.Time{}}, sweepNow: make(chan struct{}, 1)}
}

// Changed has a Site looked at. It does not block.
func (c *Controller) Changed(site string) { c.cfg.Queue.Add(site) }

// State returns the state of a Site's accounts. It returns false while that is not known, and
// for a Site that asks for no accounts of a bridge without keys.
func (c *Controller) State(site string) (State, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.states[site]
	return s, ok
}

// Close shuts down the queue, also if the controller was never started.
func (c *Controller) Close() { c.cfg.Queue.ShutDown() }

// Run applies changes until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		<-ctx.Done()
		c.cfg.Queue.ShutDown()
		return nil
	})
	for range max(c.cfg.Workers, 1) {
		g.Go(func() error {
			for c.work(ctx) {
			}
			return nil
		})
	}
	if c.cfg.Resolver != nil {
		g.Go(func() error { c.sweepUntil(ctx); return nil })
		g.Go(func() error { c.compareAgain(ctx); return nil })
	}
	for _, site := range c.cfg.Sites.SiteNames() {
		c.cfg.Queue.Add(site)
	}
	return g.Wait()
}

// work handles one Site. It returns false when the queue has ended.
func (c *Controller) work(ctx context.Context) bool {
	site, ended := c.cfg.Queue.Get()
	if ended {
		return false
	}
	defer c.cfg.Queue.Done(site)
	err := c.reconcile(ctx, site)
	if ctx.Err() != nil {
		return true
	}
	c.cfg.Report(site, err)
	if err != nil {
		c.cfg.Queue.AddRateLimited(site)
		return true
	}
	c.cfg.Queue.Forget(site)
	return true
}

// reconcile makes the accounts of one Site at the hub what the Site wants. An invalid Site is no
// error: trying again does not help.
func (c *Controller) reconcile(ctx context.Context, name string) error {
	s, tokens, ok := c.cfg.Sites.SiteSpec(name)
	if c.cfg.Keys == nil {
		if !ok || len(s.Gateways)+len(s.Operators) == 0 && s.Join == nil {
			c.forget(name)
			return nil
		}
		c.set(name, State{Outcome: NotConfigured, Message: "the bridge has no keys to make accounts with (nats.accounts in its configuration)"})
		return nil
	}
	if !ok {
		return c.remove(ctx, name)
	}
	invalid := s.Validate()
	if invalid != nil {
		s = s.valid()
	}
	if s.Join != nil {
		left := time.Until(s.Join.Expires)
		if left <= 0 {
			s.Join = nil
		} else {
			c.cfg.Queue.AddAfter(name, left)
		}
	}
	state, claims, err := c.prepare(s, tokens)
	if err != nil {
		return err
	}
	if invalid != nil {
		state.Outcome, state.Message = Invalid, invalid.Error()
	}
	if err := c.store(ctx, s, claims); err != nil {
		state.Outcome, state.Message = Unavailable, err.Error()
		if errors.Is(err, ErrRefused) {
			state.Outcome = Refused
		}
		c.set(name, state)
		return err
	}
	c.set(name, state)
	return nil
}

// prepare computes the accounts of a Site and the JWTs of their users.
func (c *Controller) prepare(s Site, tokens map[string]string) (State, []*jwt.AccountClaims, error) {
	claims, err := c.cfg.Keys.Claims(s)
	if err != nil {
		return State{}, nil, err
	}
	state := State{Account: claims[0].Subject}
	if len(s.Gateways) == 0 {
		state.Outcome = Revoked
	}
	for _, key := range s.Gateways {
		token, err := c.cfg.Keys.GatewayToken(s.Name, key, tokens[key])
		if err != nil {
			return State{}, nil, err
		}
		state.Gateways = append(state.Gateways, User{key, token})
	}
	for _, key := range s.Operators {
		token, err := c.cfg.Keys.OperatorToken(s.Name, key, tokens[key])
		if err != nil {
			return State{}, nil, err
		}
		state.Operators = append(state.Operators, User{key, token})
	}
	if s.Join != nil {
		token, err := c.cfg.Keys.JoinUserToken(s.Name, *s.Join, tokens[s.Join.Key])
		if err != nil {
			return State{}, nil, err
		}
		state.Join, state.Entry = &User{s.Join.Key, token}, c.cfg.Entry
	}
	return state, claims, nil
}

// store stores the claims of a Site at the hub if it has others, and removes the accounts that the
// Site does not have. The Site is looked at again if that is not settled yet.
func (c *Controller) store(ctx context.Context, s Site, claims []*jwt.AccountClaims) error {
	site := s.Name
	var digest strings.Builder
	for _, want := range claims {
		digest.WriteString(canonical(want))
	}
	c.mu.Lock()
	stored, connection := c.stored[site] == digest.String(), c.connection
	if !stored {
		delete(c.stored, site)
	}
	c.mu.Unlock()
	if stored {
		return nil
	}
	settled := true
	for _, want := range claims {
		have, err := c.cfg.Resolver.Lookup(ctx, want.Subject)
		if err != nil {
			return err
		}
		again, err := c.bring(ctx, site, have, want)
		if err != nil {
			return err
		}
		settled = settled && !again
	}
	for _, role := range roles {
		if s.has(role) {
			continue
		}
		again, err := c.delete(ctx, site, role)
		if err != nil {
			return err
		}
		settled = settled && !again
	}
	if !settled {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.connection == connection {
		c.stored[site] = digest.String()
	}
	return nil
}

// bring stores at the hub what an account of a site that has some claims, or none, needs to get others. It
// reports whether the claims are to be stored once more: the site is looked at again then.
func (c *Controller) bring(ctx context.Context, site string, have, want *jwt.AccountClaims) (again bool, err error) {
	account := want.Subject
	marked := have != nil && Same(have, settling(want))
	claims, again := next(have, want, c.cfg.Keys.operatorKey, marked && c.waiting.settled(account))
	if claims != nil {
		if err := c.cfg.Check(); err != nil {
			return false, err
		}
		if err := c.cfg.Resolver.Store(ctx, claims); err != nil {
			return false, err
		}
		if marked {
			c.cfg.Log.Debug("account stored at the hub once more", zap.String("site", site), zap.String("account", account))
		} else {
			c.cfg.Log.Info("account stored at the hub", zap.String("site", site), zap.String("name", want.Name), zap.String("account", account), zap.Int("users", len(want.SigningKeys)))
			c.waiting.begin(account)
		}
	}
	if again {
		c.cfg.Queue.AddAfter(site, settleTime)
	} else {
		c.waiting.end(account)
	}
	return again, nil
}

// compareAgain compares the accounts of all Sites with the hub whenever the bridge has connected to
// it again, until ctx ends: a hub that was restored from a backup lets in whom it did then.
func (c *Controller) compareAgain(ctx context.Context) {
	connected, stop := c.cfg.Resolver.Connected()
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-connected:
		}
		c.mu.Lock()
		c.connection++
		clear(c.stored)
		c.mu.Unlock()
		for _, site := range c.cfg.Sites.SiteNames() {
			c.cfg.Queue.Add(site)
		}
		select {
		case c.sweepNow <- struct{}{}:
		default:
		}
	}
}

// remove deletes the accounts of a Site that does not exist.
func (c *Controller) remove(ctx context.Context, site string) error {
	c.forget(site)
	var errs []error
	for _, role := range roles {
		_, err := c.delete(ctx, site, role)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// delete deletes the account of a site for a role if there is one. It takes its users away first: while it
// reports again, it has not deleted the account yet, and the site is looked at again.
func (c *Controller) delete(ctx context.Context, site, role string) (again bool, err error) {
	account, err := c.cfg.Keys.identity(site, role)
	if err != nil {
		return false, err
	}
	have, err := c.cfg.Resolver.Lookup(ctx, account)
	if err != nil || have == nil {
		return false, err
	}
	if again, err := c.bring(ctx, site, have, withoutUsers(have)); err != nil || again {
		return again, err
	}
	if err := c.cfg.Check(); err != nil {
		return false, err
	}
	if err := c.cfg.Resolver.Delete(ctx, account); err != nil {
		return false, err
	}
	c.cfg.Log.Info("account deleted from the hub", zap.String("site", site), zap.String("role", role), zap.String("account", account))
	return false, nil
}

func (c *Controller) set(site string, s State) {
	c.mu.Lock()
	before, known := c.states[site]
	c.states[site] = s
	c.mu.Unlock()
	if !known || !before.equal(s) {
		c.cfg.OnChanged()
	}
}

func (c *Controller) forget(site string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.states, site)
	delete(c.stored, site)
}

func (c *Controller) sweepUntil(ctx context.Context) {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		err := c.sweep(ctx)
		if ctx.Err() != nil {
			return
		}
		c.cfg.Report("", err)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-c.sweepNow:
		}
	}
}

// sweep has the Sites looked at whose account the hub has lost, and deletes the accounts of
// sites that do not exist.
func (c *Controller) sweep(ctx context.Context) error {
	list, err := c.cfg.Resolver.List(ctx)
	if err != nil {
		return err
	}
	at := make(map[string]bool, len(list))
	for _, account := range list {
		at[account] = true
	}
	for _, site := range c.cfg.Sites.SiteNames() {
		s, _, _ := c.cfg.Sites.SiteSpec(site)
		if s.Join != nil && !time.Now().Before(s.Join.Expires) {
			s.Join = nil
		}
		lost := false
		for _, role := range roles {
			account, err := c.cfg.Keys.identity(site, role)
			if err != nil {
				return err
			}
			lost = lost || s.has(role) != at[account]
			delete(at, account)
		}
		if lost {
			c.mu.Lock()
			delete(c.stored, site)
			c.mu.Unlock()
			c.cfg.Queue.Add(site)
		}
	}
	var errs []error
	for account := range at {
		errs = append(errs, c.removeUnknown(ctx, account))
	}
	return errors.Join(errs...)
}

// removeUnknown deletes an account that is that of a site and belongs to no Site. Others, such
// as FABRIC, are left alone.
func (c *Controller) removeUnknown(ctx context.Context, account string) error {
	have, err := c.cfg.Resolver.Lookup(ctx, account)
	if err != nil || have == nil {
		return err
	}
	site, ok := siteOf(have)
	if !ok {
		return nil
	}
	for _, role := range roles {
		// An account that this bridge would not make is that of another key or another bridge.
		if own, err := c.cfg.Keys.identity(site, role); err != nil || own != account {
			continue
		}
		if _, _, exists := c.cfg.Sites.SiteSpec(site); exists {
			return nil // created meanwhile
		}
		_, err := c.delete(ctx, site, role)
		return err
	}
	return nil
}

// siteOf returns the site whose account it is.
func siteOf(c *jwt.AccountClaims) (string, bool) {
	for _, tag := range c.Tags {
		if site, ok := strings.CutPrefix(tag, siteTag); ok {
			return site, true
		}
	}
	return "", false
}
