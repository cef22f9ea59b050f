package bounds

import (
	"testing"
	"time"
)

// A site has its burst at once and its rate afterwards, whatever another site takes.
func TestRate(t *testing.T) {
	t.Parallel()
	for name, newRate := range map[string]func(func() time.Time) *Rate{"writes": NewWriteRate, "events": NewEventRate, "certificates": NewCertificateRate} {
		t.Run(name, func(t *testing.T) {
			now := time.Unix(1_000_000, 0)
			r := newRate(func() time.Time { return now })
			take := func(site string, bytes int) (n int) {
				for r.Take(site, bytes) == 0 {
					n++
				}
				return n
			}
			if n := take("plant-b", 1); n != r.burst/r.least {
				t.Errorf("%d small ones at once, want %d", n, r.burst/r.least)
			}
			if large := min(64<<10, r.burst); take("plant-a", large) != r.burst/large {
				t.Errorf("another site has not %d of %d", r.burst/large, large)
			}
			wait := r.Take("plant-b", r.least)
			if want := time.Duration(float64(r.least) / float64(r.limit) * float64(time.Second)); wait < want-time.Millisecond || wait > want+time.Millisecond {
				t.Errorf("the next one after %v, want %v", wait, want)
			}
			if now = now.Add(wait); r.Take("plant-b", r.least) != 0 {
				t.Error("not taken after the wait")
			}
			now = now.Add(time.Minute)
			if n := take("plant-b", r.least); n != min(r.burst, int(r.limit*60))/r.least {
				t.Errorf("%d in a minute", n)
			}
			now = now.Add(time.Hour)
			if wait := r.Take("plant-b", 1<<30); wait != 0 {
				t.Errorf("one that is larger than all waits %v", wait)
			}
			if r.Retain(func(site string) bool { return site == "plant-a" }); len(r.sites) != 1 {
				t.Errorf("%d sites are remembered, want 1", len(r.sites))
			}
		})
	}
}
