package bridge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

var (
	// errNotLeading refuses a write of a bridge whose lease is not known to be valid.
	errNotLeading = errors.New("this bridge does not lead")
	// errDeposed reports that another bridge has led after this one.
	errDeposed = errors.New("another bridge leads")
)

// fence knows whether this bridge may write. Another bridge takes over no sooner than a
// lease after it has seen this one's last renewal, so that a renewal counts from before
// it was sent. Both clocks must agree that the lease is running: the monotonic one does
// not see a wall clock that was set, nor does it run while a machine is suspended.
//
// What was checked here and is sent late, because the process stood still in between,
// is refused by its precondition: a resource version, a UID, or the last sequence of
// its subject. It is safe for concurrent use.
type fence struct {
	now func() time.Time

	mu      sync.Mutex
	lease   time.Duration
	renewal time.Time
	term    uint64
	// after is the highest term of another bridge that was met, 0 when none is above
	// this one's.
	successor uint64
	deposedCh chan struct{}
}

func newFence(now func() time.Time) *fence { return &fence{now: now, deposedCh: make(chan struct{})} }

// raise begins a time of leading whose term is not known yet.
func (f *fence) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.term, f.successor, f.deposedCh = 0, 0, make(chan struct{})
}

// renewed takes in that the lease was renewed by a request sent at a time.
func (f *fence) renewed(sent time.Time, lease time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.renewal, f.lease = sent, lease
}

// fall ends the right to write.
func (f *fence) revoke() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.renewal = time.Time{}
}

// claim sets the term of this time of leading.
func (f *fence) setTerm(term uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.term = term
}

// met takes in a term that was seen in what this bridge reads. One that is higher than
// its own deposes it.
func (f *fence) observeTerm(term uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.term == 0 || term <= f.term || f.successor > 0 {
		return
	}
	f.successor = term
	close(f.deposedCh)
}

// current is the term of this time of leading, 0 before it was claimed.
func (f *fence) currentTerm() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.term
}

// deposed is closed when a higher term is met.
func (f *fence) deposed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.deposedCh
}

// check is nil while this bridge may write.
func (f *fence) check() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.successor > 0 {
		return fmt.Errorf("%w: term %d after this one's %d", errDeposed, f.successor, f.term)
	}
	if f.renewal.IsZero() {
		return errNotLeading
	}
	now := f.now()
	monotonic, wall := now.Sub(f.renewal), now.Round(0).Sub(f.renewal.Round(0))
	if monotonic >= f.lease || wall >= f.lease {
		return fmt.Errorf("%w: its lease of %v was renewed %v ago", errNotLeading, f.lease, max(monotonic, wall).Round(time.Millisecond))
	}
	return nil
}

// fenceInterval is how often a bridge that leads looks whether it still may.
const fenceInterval = 100 * time.Millisecond

// watch returns when this bridge may not write any more, with the reason, or with nil
// when ctx ends.
func (f *fence) watch(ctx context.Context) error {
	tick := time.NewTicker(fenceInterval)
	defer tick.Stop()
	deposed := f.deposed()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-deposed:
		case <-tick.C:
		}
		if err := f.check(); err != nil {
			return err
		}
	}
}

// transport refuses the API writes of a bridge that may not write, and names the term
// in the others' user agent, so that an audit log tells who wrote.
func (f *fence) transport(next http.RoundTripper) http.RoundTripper { return &fencedTransport{f, next} }

type fencedTransport struct {
	fence *fence
	next  http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *fencedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return t.next.RoundTrip(r)
	}
	r = r.Clone(r.Context())
	r.Header.Set("User-Agent", fmt.Sprintf("%s term/%d", r.Header.Get("User-Agent"), t.fence.currentTerm()))
	if err := t.fence.check(); err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // a round tripper closes it, also with an error
		}
		return nil, err
	}
	return t.next.RoundTrip(r)
}

// WrappedRoundTripper lets client-go find the transport that can be cancelled.
func (t *fencedTransport) WrappedRoundTripper() http.RoundTripper { return t.next }
