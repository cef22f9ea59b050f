package lease

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

var (
	// ErrNotLeading rejects a write while this bridge does not hold a valid lease.
	ErrNotLeading = errors.New("this bridge does not lead")
	// ErrDeposed reports that another bridge became leader after this one.
	ErrDeposed = errors.New("another bridge leads")
)

// Fence decides whether this bridge may write. Another bridge takes over one lease duration
// after it has seen this one's last renewal at the earliest, so a renewal counts from before
// it was sent. Both clocks must agree that the lease is valid: the monotonic clock does not
// notice that the wall clock was set, and stands still while the machine is suspended.
//
// A write that passed the check and is sent late, because the process was paused in between,
// is rejected by its precondition: a resource version, a UID, or the last sequence of its
// subject. It is safe for concurrent use.
type Fence struct {
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

// NewFence returns the fence of a bridge that does not lead. now is the clock, time.Now outside
// tests.
func NewFence(now func() time.Time) *Fence { return &Fence{now: now, deposedCh: make(chan struct{})} }

// reset starts a period of leadership whose term is not known yet.
func (f *Fence) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.term, f.successor, f.deposedCh = 0, 0, make(chan struct{})
}

// Renewed records that a request sent at that time renewed the lease for the given duration.
func (f *Fence) Renewed(sent time.Time, lease time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.renewal, f.lease = sent, lease
}

// revoke ends the right to write.
func (f *Fence) revoke() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.renewal = time.Time{}
}

// SetTerm sets the term of this period of leadership. It must be higher than all earlier ones.
func (f *Fence) SetTerm(term uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.term = term
}

// ObserveTerm takes note of a term in what this bridge reads. A term above its own deposes it.
func (f *Fence) ObserveTerm(term uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.term == 0 || term <= f.term || f.successor > 0 {
		return
	}
	f.successor = term
	close(f.deposedCh)
}

// Term returns the term of this period of leadership, 0 before SetTerm.
func (f *Fence) Term() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.term
}

// deposed returns a channel that is closed when a higher term is observed.
func (f *Fence) deposed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.deposedCh
}

// Check returns nil if this bridge may write, ErrDeposed if a higher term was observed, and
// ErrNotLeading if the lease is not held or no longer valid.
func (f *Fence) Check() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.successor > 0 {
		return fmt.Errorf("%w: term %d after this one's %d", ErrDeposed, f.successor, f.term)
	}
	if f.renewal.IsZero() {
		return ErrNotLeading
	}
	now := f.now()
	monotonic, wall := now.Sub(f.renewal), now.Round(0).Sub(f.renewal.Round(0))
	if monotonic >= f.lease || wall >= f.lease {
		return fmt.Errorf("%w: its lease of %v was renewed %v ago", ErrNotLeading, f.lease, max(monotonic, wall).Round(time.Millisecond))
	}
	return nil
}

// fenceInterval is the time between two checks of a leading bridge.
const fenceInterval = 100 * time.Millisecond

// Watch blocks until this bridge may no longer write and returns the reason, or nil when ctx
// ends.
func (f *Fence) Watch(ctx context.Context) error {
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

// Transport returns a transport that rejects API writes of a bridge that may not write. It adds
// the term to the user agent of all others, so that the audit log identifies the writer.
func (f *Fence) Transport(next http.RoundTripper) http.RoundTripper { return &fencedTransport{f, next} }

type fencedTransport struct {
	fence *Fence
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
