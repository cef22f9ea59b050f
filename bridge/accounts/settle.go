package accounts

import (
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
)

// settlingTag marks claims that replace others and have been stored once. A server of the hub that loads
// an account for the first time, because somebody connects, may have read the claims before they were
// replaced, and begin to use them after that; it takes no notice of claims that it has seen. So all
// changes are stored a second time, as other claims with the same rights. The mark is at the hub: another
// bridge that leads goes on.
//
// Source: Server.fetchAccount and DirAccResolver.Start of nats-server 2.15.2, docs/upstream.md, 28.
const settlingTag = "petiole-settling"

// settleTime is the time between the two. A server needs less than a millisecond from reading an account
// to using it, and more while its processor is busy.
const settleTime = 2 * time.Second

// settling returns claims with the mark.
func settling(c *jwt.AccountClaims) *jwt.AccountClaims {
	marked := *c
	marked.Tags = append(jwt.TagList{settlingTag}, c.Tags...)
	return &marked
}

// next returns the claims to store so that an account which has some, nil for none, gets those that it
// shall have, signed by the issuer, and whether it has to be asked again after settleTime. It returns nil
// if there is nothing to store now.
func next(have, want *jwt.AccountClaims, issuer string, settled bool) (store *jwt.AccountClaims, again bool) {
	switch {
	case have == nil:
		return want, false // a server that finds no account uses none
	case Same(have, want) && have.Issuer == issuer:
		return nil, false
	case Same(have, want):
		return want, false // the rights are the same
	case !Same(have, settling(want)):
		return settling(want), true
	case !settled:
		return nil, true
	}
	return want, false
}

// withoutUsers returns claims that let nobody in.
func withoutUsers(c *jwt.AccountClaims) *jwt.AccountClaims {
	empty := *c
	empty.SigningKeys = jwt.SigningKeys{}
	empty.Tags = jwt.TagList{}
	for _, tag := range c.Tags {
		if tag != settlingTag {
			empty.Tags = append(empty.Tags, tag)
		}
	}
	return &empty
}

// waiting remembers since when accounts have claims with the mark.
type waiting struct {
	mu    sync.Mutex
	since map[string]time.Time
}

// settled reports whether an account has been known to have the mark for settleTime. If it was not
// known, the time begins.
func (w *waiting) settled(account string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	since, ok := w.since[account]
	if !ok {
		w.since[account] = time.Now()
	}
	return ok && time.Since(since) >= settleTime
}

// begin has the time of an account begin anew.
func (w *waiting) begin(account string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.since[account] = time.Now()
}

func (w *waiting) end(account string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.since, account)
}
