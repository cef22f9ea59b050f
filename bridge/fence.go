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
	// errNotLeading rejects a write while this bridge does not hold a valid lease.
	errNotLeading = errors.New("this bridge does not lead")
	// errDeposed reports that another bridge became leader after this one.
	errDeposed = errors.New("another bridge leads")
)

// fence decides whether this bridge may write. Another bridge takes over one lease duration
// after it has seen this one's last renewal at the earliest, so a renewal counts from before
// it was sent. Both clocks must agree that the lease is valid: the monotonic clock does not
// notice that the wall clock was set, and stands still while the machine is suspended.
//
// A write that passed the check and is sent late, because the process was paused in between,
// is rejected by its precondition: a resource version, a UID, or the last sequence of its
// subject. It is safe for concurrent use.
type fence struct {
	now func() time.Time

	mu      sync.Mutex
	lease   time.Duration
	renewal time.Time
	term    uint64
	// successor is the highest observed term of another bridge, 0 if none is above this
	// bridge's own.
	successor uint64
	deposedCh chan struct{}
}

func newFence(now func() time.Time) *fence { return &fence{now: now, deposedCh: make(chan struct{})} }

// reset starts a period of leadership whose term is not known yet.
func (f *fence) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.term, f.successor, f.deposedCh = 0, 0, make(chan struct{})
}

// renewed records that a request sent at that time renewed the lease.
func (f *fence) Renewed(sent time.Time, lease time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.renewal, f.lease = sent, lease
}

// revoke ends the right to write.
func (f *fence) revoke() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.renewal = time.Time{}
}

// setTerm sets the term of this period of leadership.
func (f *fence) SetTerm(term uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.term = term
}

// observeTerm takes note of a term in what this bridge reads. A term above its own deposes it.
func (f *fence) ObserveTerm(term uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.term == 0 || term <= f.term || f.successor > 0 {
		return
	}
	f.successor = term
	close(f.deposedCh)
}

// currentTerm returns the term of this period of leadership, 0 before setTerm.
func (f *fence) Term() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.term
}

// deposed returns a channel that is closed when a higher term is observed.
func (f *fence) deposed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.deposedCh
}

// check returns nil if this bridge may write.
func (f *fence) Check() error {
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

// fenceInterval is the time between two checks of a leading bridge.
const fenceInterval = 100 * time.Millisecond

// watch blocks until this bridge may no longer write and returns the reason, or nil when ctx
// ends.
func (f *fence) Watch(ctx context.Context) error {
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
		if err := f.Check(); err != nil {
			return err
		}
	}
}

// transport rejects API writes of a bridge that may not write. It adds the term to the user
// agent of all others, so that the audit log identifies the writer.
func (f *fence) Transport(next http.RoundTripper) http.RoundTripper { return &fencedTransport{f, next} }

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
	r.Header.Set("User-Agent", fmt.Sprintf("%s term/%d", r.Header.Get("User-Agent"), t.fence.Term()))
	if err := t.fence.Check(); err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // a RoundTripper must close it even if it fails
		}
		return nil, err
	}
	return t.next.RoundTrip(r)
}

// WrappedRoundTripper lets client-go find the transport whose requests can be cancelled.
func (t *fencedTransport) WrappedRoundTripper() http.RoundTripper { return t.next }
