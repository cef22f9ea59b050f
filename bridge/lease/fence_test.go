package lease

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestFence(t *testing.T) {
	t.Parallel()
	start := time.Now()
	now := start
	f := NewFence(func() time.Time { return now })
	wants := func(what string, want error) {
		t.Helper()
		if err := f.Check(); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	f.reset()
	wants("before the lease is won", ErrNotLeading)
	f.Renewed(now, 10*time.Second)
	f.SetTerm(5)
	wants("leading", nil)
	now = start.Add(9 * time.Second)
	wants("late", nil)
	now = start.Add(10 * time.Second)
	wants("lease over", ErrNotLeading)
	f.Renewed(now, 10*time.Second)
	wants("renewed", nil)

	// A machine that was suspended: the wall clock advanced, the monotonic clock did not.
	// Without a monotonic reading the difference is that of the wall clock.
	now = start.Add(10 * time.Second).Round(0).Add(time.Minute)
	wants("suspended", ErrNotLeading)
	// The wall clock was set back: the monotonic clock counts.
	now = start.Add(30 * time.Second)
	wants("clock set", ErrNotLeading)
	now = start.Add(11 * time.Second)
	wants("still running", nil)

	f.ObserveTerm(5)
	f.ObserveTerm(4)
	wants("its own and earlier terms", nil)
	select {
	case <-f.deposed():
		t.Error("deposed by an earlier term")
	default:
	}
	f.ObserveTerm(6)
	f.ObserveTerm(7)
	wants("a later term", ErrDeposed)
	<-f.deposed()
	f.Renewed(now, 10*time.Second)
	wants("a renewal does not help", ErrDeposed)
	f.reset()
	f.SetTerm(8)
	wants("leading again", nil)
	f.revoke()
	wants("given back", ErrNotLeading)
}

// Neither the terms of an earlier leader nor those seen before this bridge has a term depose
// it.
func TestFenceIgnoresTermsBeforeItsOwn(t *testing.T) {
	t.Parallel()
	f := NewFence(time.Now)
	f.reset()
	f.Renewed(time.Now(), time.Minute)
	f.ObserveTerm(99)
	if err := f.Check(); err != nil {
		t.Error(err)
	}
}

func TestFencedTransport(t *testing.T) {
	t.Parallel()
	f := NewFence(time.Now)
	f.reset()
	var agents []string
	rt := f.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
		agents = append(agents, r.Method+" "+r.UserAgent())
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}))
	do := func(method string) error {
		r, err := http.NewRequest(method, "http://localhost/", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("User-Agent", "petiole-bridge")
		answer, err := rt.RoundTrip(r)
		if err == nil {
			answer.Body.Close()
		}
		return err
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if err := do(method); !errors.Is(err, ErrNotLeading) {
			t.Errorf("%s without a lease: %v", method, err)
		}
	}
	if err := do(http.MethodGet); err != nil {
		t.Errorf("a read without a lease: %v", err)
	}
	f.Renewed(time.Now(), time.Minute)
	f.SetTerm(7)
	if err := do(http.MethodPatch); err != nil {
		t.Error(err)
	}
	if want := "PATCH petiole-bridge term/7"; agents[len(agents)-1] != want || len(agents) != 2 {
		t.Errorf("requests %q, want two, the last %q", agents, want)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
