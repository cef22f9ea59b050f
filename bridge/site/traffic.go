package site

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/streams/traffic"
)

// askInterval is the time between two requests for a report of a leaf that does not have the budget of
// its Site: one of an earlier version never answers.
const askInterval = 5 * time.Minute

// TrafficConfig is what a Traffic needs.
type TrafficConfig struct {
	Cache Cache
	// SiteExists reports whether a Site with that name exists; reports of others are ignored.
	SiteExists func(site string) bool
	// OnReport is called after each report, Ask asks a leaf for one. Neither may block.
	OnReport func()
	Ask      func(site string) error
	Log      *zap.Logger
}

// Traffic has what the leaves have reported of their links to this bridge, and has them take over the
// budgets of their Sites. Use NewTraffic. It is safe for concurrent use.
type Traffic struct {
	cfg TrafficConfig

	mu    sync.Mutex
	sites map[string]trafficReport
	asked map[string]budgetRequest
}

type trafficReport struct {
	at time.Time
	traffic.Report
}

// budgetRequest is when a leaf was asked to take over which budget.
type budgetRequest struct {
	at     time.Time
	budget int64
}

// NewTraffic returns one that has no reports.
func NewTraffic(cfg TrafficConfig) *Traffic {
	return &Traffic{cfg: cfg, sites: map[string]trafficReport{}, asked: map[string]budgetRequest{}}
}

// Record takes over a report of a site.
func (t *Traffic) Record(site string, r traffic.Report) {
	if len(r.Days) == 0 || !t.cfg.SiteExists(site) {
		return
	}
	t.mu.Lock()
	t.sites[site] = trafficReport{at: time.Now(), Report: t.sites[site].Merge(r)}
	t.mu.Unlock()
	t.cfg.OnReport()
}

// Budget returns what the link of a site may carry on one day, 0 for any number of bytes.
func (t *Traffic) Budget(site string) int64 {
	o := t.cfg.Cache.Get(kube.SiteKey(site))
	if o == nil {
		return 0
	}
	var s v1alpha1.Site
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &s); err != nil {
		t.cfg.Log.Warn("budget of a site is not readable", zap.String("site", site), zap.Error(err))
		return 0
	}
	return budgetOf(s.Spec)
}

func budgetOf(spec v1alpha1.SiteSpec) int64 {
	if spec.Link == nil || spec.Link.DailyBytes == nil {
		return 0
	}
	return spec.Link.DailyBytes.Value()
}

// Retain forgets the sites that no longer exist.
func (t *Traffic) Retain(exists func(site string) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.sites, func(site string, _ trafficReport) bool { return !exists(site) })
	maps.DeleteFunc(t.asked, func(site string, _ budgetRequest) bool { return !exists(site) })
}

// apply sets what is known of a site's link in its status, and asks the leaf for a report if it is
// connected and has another budget than its Site.
func (t *Traffic) apply(site string, spec v1alpha1.SiteSpec, status *v1alpha1.SiteStatus, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, reported := t.sites[site]
	if reported {
		status.Traffic = applyTraffic(status.Traffic, r.Report, r.at)
	}
	want := budgetOf(spec)
	if want == 0 {
		meta.RemoveStatusCondition(&status.Conditions, v1alpha1.ConditionWithinBudget)
	} else if c, known := budgetCondition(r, reported, want, status.Traffic); known {
		c.LastTransitionTime = *wireTime(now)
		meta.SetStatusCondition(&status.Conditions, c)
	}
	asked := t.asked[site]
	if !status.Connected || r.Budget == want || asked.budget == want && now.Sub(asked.at) < askInterval {
		return
	}
	t.asked[site] = budgetRequest{at: now, budget: want}
	if err := t.cfg.Ask(site); err != nil {
		t.cfg.Log.Warn("leaf is not asked for what its link carried", zap.String("site", site), zap.Error(err))
	}
}

// budgetCondition returns the condition of a Site with a budget. It returns false if the one that an
// earlier bridge has written still holds, as far as this one knows.
func budgetCondition(r trafficReport, reported bool, want int64, served *v1alpha1.SiteTraffic) (metav1.Condition, bool) {
	const t = v1alpha1.ConditionWithinBudget
	budget := resource.NewQuantity(want, resource.DecimalSI)
	switch {
	case !reported && served != nil && served.DailyBytes != nil && served.DailyBytes.Value() == want:
		return metav1.Condition{}, false
	case r.Budget != want:
		return condition(t, metav1.ConditionUnknown, v1alpha1.ReasonNotConfirmed, fmt.Sprintf("the leaf has not reported yet that it keeps a budget of %s a day", budget)), true
	}
	used := kilobytes(r.Days[0].Bytes())
	message := fmt.Sprintf("%s of %s are used on %s (UTC): ", used.String(), budget, r.Days[0].Date)
	switch r.Level {
	case traffic.SamplesThinned:
		return condition(t, metav1.ConditionFalse, v1alpha1.ReasonSamplesThinned, message+"the newest sample of each device is sent every "+duration.HumanDuration(traffic.ThinInterval)+", the others stay at the site"), true
	case traffic.SamplesWait:
		return condition(t, metav1.ConditionFalse, v1alpha1.ReasonSamplesWait, message+"Events and samples wait at the site until the next day"), true
	case traffic.ReportsWait:
		return condition(t, metav1.ConditionFalse, v1alpha1.ReasonReportsWait, message+"status, Events and samples wait at the site until the next day"), true
	}
	return condition(t, metav1.ConditionTrue, v1alpha1.ReasonAsExpected, fmt.Sprintf("nothing waits because of the budget of %s a day", budget)), true
}

// applyTraffic returns what is known of a link after a report: its days replace those of the same
// date, and the others stay, unless they have not come yet: the bridge's clock was wrong then.
func applyTraffic(before *v1alpha1.SiteTraffic, report traffic.Report, at time.Time) *v1alpha1.SiteTraffic {
	today := report.Days[0]
	out := &v1alpha1.SiteTraffic{Time: *wireTime(at), Date: today.Date, Bytes: kilobytes(today.Bytes())}
	if report.Budget > 0 {
		out.DailyBytes = resource.NewQuantity(report.Budget, resource.DecimalSI)
	}
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
