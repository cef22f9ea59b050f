package bounds

import (
	"maps"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// The rates of a site: bytes in a second, and bytes at once. etcd keeps each version of an object
// until it compacts, every five minutes, and each Event for an hour: at its worst a site adds
// about 80 MiB of the former and 60 MiB of the latter.
const (
	writeRate, writeBurst = 256 << 10, 8 << 20
	eventRate, eventBurst = 16 << 10, 2 << 20
	// minWriteCost and minEventCost are what a small one costs.
	minWriteCost, minEventCost = 2 << 10, 1 << 10
	// Requests for certificates of pods, in a second and at once. Kubernetes deletes each after
	// 15 minutes: a site has about 500 at its worst, and 64 pods get theirs at once.
	certificateRate, certificateBurst = 0.5, 64
)

// Rate limits what each site adds in a second: bytes, or objects. Create it with NewWriteRate,
// NewEventRate or NewCertificateRate. It is safe for concurrent use.
type Rate struct {
	limit rate.Limit
	burst int
	least int
	now   func() time.Time

	mu    sync.Mutex
	sites map[string]*rate.Limiter
}

// NewWriteRate returns the rate of reports that are written to the API server, with the clock that
// it reads.
func NewWriteRate(now func() time.Time) *Rate {
	return &Rate{limit: writeRate, burst: writeBurst, least: minWriteCost, now: now, sites: map[string]*rate.Limiter{}}
}

// NewEventRate returns the rate of Events, with the clock that it reads.
func NewEventRate(now func() time.Time) *Rate {
	return &Rate{limit: eventRate, burst: eventBurst, least: minEventCost, now: now, sites: map[string]*rate.Limiter{}}
}

// NewCertificateRate returns the rate of requests for certificates of pods, with the clock that it
// reads.
func NewCertificateRate(now func() time.Time) *Rate {
	return &Rate{limit: certificateRate, burst: certificateBurst, least: 1, now: now, sites: map[string]*rate.Limiter{}}
}

// Take takes a site's place for so many bytes or objects. If there is none it takes nothing, and returns the
// time after which to try again.
func (r *Rate) Take(site string, n int) (wait time.Duration) {
	n = min(max(n, r.least), r.burst)
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.sites[site]
	if l == nil {
		l = rate.NewLimiter(r.limit, r.burst)
		r.sites[site] = l
	}
	now := r.now()
	place := l.ReserveN(now, n)
	if wait = place.DelayFrom(now); wait > 0 {
		place.CancelAt(now)
	}
	return wait
}

// Retain drops the sites that no longer exist.
func (r *Rate) Retain(exists func(site string) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.sites, func(site string, _ *rate.Limiter) bool { return !exists(site) })
}
