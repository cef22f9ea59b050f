package site

import (
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/streams/traffic"
)

// Traffic has what the leaves have reported of their links to this bridge. Use NewTraffic. It is safe for
// concurrent use.
type Traffic struct {
	exists  func(site string) bool
	changed func()

	mu    sync.Mutex
	sites map[string]trafficReport
}

type trafficReport struct {
	at time.Time
	traffic.Report
}

// NewTraffic returns one that takes reports of the sites that exist, and calls changed after each.
func NewTraffic(exists func(site string) bool, changed func()) *Traffic {
	return &Traffic{exists: exists, changed: changed, sites: map[string]trafficReport{}}
}

// Record takes over a report of a site.
func (t *Traffic) Record(site string, r traffic.Report) {
	if len(r.Days) == 0 || !t.exists(site) {
		return
	}
	t.mu.Lock()
	t.sites[site] = trafficReport{at: time.Now(), Report: t.sites[site].Merge(r)}
	t.mu.Unlock()
	t.changed()
}

// Retain forgets the sites that no longer exist.
func (t *Traffic) Retain(exists func(site string) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.sites, func(site string, _ trafficReport) bool { return !exists(site) })
}

// status returns what is known of a site's link; before is what the Site's status has.
func (t *Traffic) status(site string, before *v1alpha1.SiteTraffic) *v1alpha1.SiteTraffic {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.sites[site]
	if !ok {
		return before
	}
	return applyTraffic(before, r.Report, r.at)
}

// applyTraffic returns what is known of a link after a report: its days replace those of the same
// date, and the others stay, unless they have not come yet: the bridge's clock was wrong then.
func applyTraffic(before *v1alpha1.SiteTraffic, report traffic.Report, at time.Time) *v1alpha1.SiteTraffic {
	today := report.Days[0]
	out := &v1alpha1.SiteTraffic{Time: *wireTime(at), Date: today.Date, Bytes: kilobytes(today.Bytes())}
	days := map[string]v1alpha1.SiteTrafficDay{}
	if before != nil {
		for _, d := range before.Days {
			if d.Date <= today.Date {
				days[d.Date] = d
			}
		}
	}
	for _, d := range report.Days {
		days[d.Date] = trafficDay(d)
	}
	out.Days = slices.SortedFunc(maps.Values(days), func(a, b v1alpha1.SiteTrafficDay) int { return strings.Compare(b.Date, a.Date) })
	out.Days = out.Days[:min(len(out.Days), traffic.MaxDays)]
	return out
}

func trafficDay(d traffic.Day) v1alpha1.SiteTrafficDay {
	out := v1alpha1.SiteTrafficDay{Date: d.Date, Estimated: d.Estimated}
	kinds := map[string]bool{}
	for _, bytes := range []map[string]uint64{d.Up, d.Down} {
		for kind := range bytes {
			kinds[kind] = true
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		if len(out.Kinds) < traffic.MaxKinds { // what the schema takes
			out.Kinds = append(out.Kinds, v1alpha1.SiteTrafficKind{Kind: kind, Up: int64(d.Up[kind]), Down: int64(d.Down[kind])})
		}
	}
	return out
}

// kilobytes returns a quantity that is easy to read, rounded up.
func kilobytes(bytes uint64) resource.Quantity {
	q := resource.NewQuantity(int64(min(bytes, math.MaxInt64)), resource.DecimalSI)
	q.RoundUp(resource.Kilo)
	return *q
}
