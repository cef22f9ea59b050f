package siege

import (
	"os"
	"slices"
	"sync"
	"testing"
	"time"
)

// variable is the environment variable that chooses the long form of a test.
const variable = "PETIOLE_SIEGE"

// Time returns for how long one site does its worst: short, unless the long form was chosen.
func Time(t testing.TB, short time.Duration) time.Duration {
	t.Helper()
	value, long := os.LookupEnv(variable)
	if !long {
		return short
	}
	d, err := time.ParseDuration(value)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return max(short, d)
}

// The bounds of what another site notices at the 99th percentile.
const (
	// MaxReport is the time from a report to the API, MaxChange that from a change in the API to the
	// site.
	MaxReport = 2 * time.Second
	MaxChange = time.Second
	// MaxStored is the time until the hub has stored what another site publishes.
	MaxStored = time.Second
	// MaxServed is the time from a Site that is applied until its gateway is connected, MaxRevoked
	// that from its revocation until its connection is closed and the tokens of its pods have ended.
	MaxServed  = time.Second
	MaxRevoked = 10 * time.Second
	// MaxAnswered is the time until a gateway of another site has the answer to its request to join.
	MaxAnswered = 2 * time.Second
	// maxShort is the bound of all in the short form, whose machine has other things to do.
	maxShort = 20 * time.Second
)

// CheckStored fails the test if another site's 99th percentile of the time until the hub has
// stored what it publishes is beyond its bound.
func CheckStored(t testing.TB, p99 time.Duration) {
	t.Helper()
	if limit := bound(MaxStored); p99 > limit {
		t.Errorf("another site, publish → stored: p99 %v, the limit is %v", p99, limit)
	}
}

// CheckServed fails the test if a Site was not served soon enough.
func CheckServed(t testing.TB, took time.Duration) {
	t.Helper()
	if limit := bound(MaxServed); took > limit {
		t.Errorf("applied → connected: %v, the limit is %v", took, limit)
	}
}

// CheckAnswered fails the test if another site's requests were not answered soon enough.
func CheckAnswered(t testing.TB, longest time.Duration) {
	t.Helper()
	if limit := bound(MaxAnswered); longest > limit {
		t.Errorf("another site, request → answer: %v, the limit is %v", longest, limit)
	}
}

// CheckRevoked fails the test if a site was not gone soon enough.
func CheckRevoked(t testing.TB, what string, took time.Duration) {
	t.Helper()
	t.Logf("MEASURED %s: %s", what, took.Round(time.Millisecond))
	if limit := bound(MaxRevoked); took > limit {
		t.Errorf("%s: %v, the limit is %v", what, took, limit)
	}
}

// bound returns a bound of the long form, or that of the short form.
func bound(long time.Duration) time.Duration {
	if _, ok := os.LookupEnv(variable); ok {
		return long
	}
	return maxShort
}

// Latencies are those that another site had. The zero value is ready. They are safe for concurrent
// use.
type Latencies struct {
	mu               sync.Mutex
	reports, changes []time.Duration
}

// AddReport adds the time that a report took to the API.
func (l *Latencies) AddReport(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reports = append(l.reports, d)
}

// AddChange adds the time that a change in the API took to the site.
func (l *Latencies) AddChange(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes = append(l.changes, d)
}

// Check logs the latencies. It fails the test if there are none, or if one is beyond its bound.
func (l *Latencies) Check(t testing.TB) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range []struct {
		what  string
		d     []time.Duration
		limit time.Duration
	}{{"report → API", l.reports, bound(MaxReport)}, {"change → site", l.changes, bound(MaxChange)}} {
		if len(c.d) == 0 {
			t.Errorf("%s: nothing measured", c.what)
			continue
		}
		slices.Sort(c.d)
		at := func(q float64) time.Duration { return c.d[min(int(q*float64(len(c.d))), len(c.d)-1)] }
		t.Logf("another site, %s: %d measured, p50 %v, p99 %v, at most %v", c.what, len(c.d), at(.5).Round(time.Millisecond), at(.99).Round(time.Millisecond), at(1).Round(time.Millisecond))
		if at(.99) > c.limit {
			t.Errorf("another site, %s: p99 %v, the limit is %v", c.what, at(.99), c.limit)
		}
	}
}
