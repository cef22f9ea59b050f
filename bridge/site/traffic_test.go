package site

import (
	"fmt"
	"testing"
	"time"

	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/streams/traffic"
)

// TestTrafficOfReports has a leaf report all days, then those that change, and then a day that is
// earlier because the bridge's clock was wrong.
func TestTrafficOfReports(t *testing.T) {
	day := func(date string, up uint64) traffic.Day {
		return traffic.Day{Date: date, Up: map[string]uint64{"desired": up}, Down: map[string]uint64{"protocol": 7}}
	}
	reports := newReports(nil)
	reports.Record("plant-x", traffic.Report{Days: []traffic.Day{day("2026-11-26", 5)}})
	apply := func(t *Traffic, site string, before *v1alpha1.SiteTraffic) *v1alpha1.SiteTraffic {
		status := v1alpha1.SiteStatus{Traffic: before}
		t.apply(site, v1alpha1.SiteSpec{}, &status, noon)
		return status.Traffic
	}
	if got := apply(reports, "plant-x", nil); got != nil {
		t.Errorf("of a site that does not exist: %+v", got)
	}
	var status *v1alpha1.SiteTraffic
	for _, c := range []struct {
		days []traffic.Day
		want string
	}{
		{nil, "<nil>"},
		{[]traffic.Day{day("2026-11-26", 1500), day("2026-11-25", 10)}, "2026-11-26 2k: 2026-11-26 1500/7 2026-11-25 10/7"},
		{[]traffic.Day{day("2026-11-27", 1), day("2026-11-26", 1600)}, "2026-11-27 1k: 2026-11-27 1/7 2026-11-26 1600/7 2026-11-25 10/7"},
		{nil, "2026-11-27 1k: 2026-11-27 1/7 2026-11-26 1600/7 2026-11-25 10/7"},
		{[]traffic.Day{day("2026-11-26", 2_100_000)}, "2026-11-26 2101k: 2026-11-26 2100000/7 2026-11-25 10/7"},
	} {
		reports.Record("plant-a", traffic.Report{Days: c.days})
		status = apply(reports, "plant-a", status)
		got := "<nil>"
		if status != nil {
			got = status.Date + " " + status.Bytes.String() + ":"
			for _, d := range status.Days {
				sum := [2]int64{}
				for _, k := range d.Kinds {
					sum[0], sum[1] = sum[0]+k.Up, sum[1]+k.Down
				}
				got += fmt.Sprintf(" %s %d/%d", d.Date, sum[0], sum[1])
			}
		}
		if got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
	// Another bridge has received no report yet.
	next := newReports(nil)
	if got := apply(next, "plant-a", status); got != status {
		t.Errorf("%+v, want what the Site's status has", got)
	}
	next.Record("plant-a", traffic.Report{Days: []traffic.Day{day("2026-11-26", 2_200_000)}})
	if got := apply(next, "plant-a", status); len(got.Days) != 2 || got.Bytes.String() != "2201k" {
		t.Errorf("%+v, want the new day and the one before", got)
	}
}

// newReports returns reports of the site plant-a; asked is called with each request for one.
func newReports(asked func()) *Traffic {
	return NewTraffic(TrafficConfig{
		SiteExists: func(site string) bool { return site == "plant-a" }, OnReport: func() {},
		Ask: func(string) error { asked(); return nil }, Log: zap.NewNop(),
	})
}

// TestBudgetCondition gives a site a budget, which its leaf takes over, uses up, and loses.
func TestBudgetCondition(t *testing.T) {
	t.Parallel()
	asked := 0
	reports := newReports(func() { asked++ })
	status, now := v1alpha1.SiteStatus{Connected: true}, noon
	spec := func(budget string) (s v1alpha1.SiteSpec) {
		if budget != "" {
			q := resource.MustParse(budget)
			s.Link = &v1alpha1.SiteLink{DailyBytes: &q}
		}
		return s
	}
	report := func(budget int64, used uint64, level traffic.Level) *traffic.Report {
		return &traffic.Report{Budget: budget, Level: level, Days: []traffic.Day{{Date: "2026-11-26", Up: map[string]uint64{"telemetry": used}}}}
	}
	for _, c := range []struct {
		budget string
		report *traffic.Report
		after  time.Duration
		want   string
		asked  int
	}{
		{"", nil, 0, "", 0},
		{"20M", nil, 0, "Unknown NotConfirmed: the leaf has not reported yet that it keeps a budget of 20M a day", 1},
		{"20M", report(0, 10, traffic.Within), time.Second, "Unknown NotConfirmed: the leaf has not reported yet that it keeps a budget of 20M a day", 1},
		{"20M", nil, askInterval, "Unknown NotConfirmed: the leaf has not reported yet that it keeps a budget of 20M a day", 2},
		{"20M", report(20e6, 10, traffic.Within), 0, "True AsExpected: nothing waits because of the budget of 20M a day", 2},
		{"20M", report(20e6, 15_100_000, traffic.SamplesThinned), time.Hour, "False SamplesThinned: 15100k of 20M are used on 2026-11-26 (UTC): the newest sample of each device is sent every 15m, the others stay at the site", 2},
		{"20M", report(20e6, 18_000_001, traffic.SamplesWait), 0, "False SamplesWait: 18001k of 20M are used on 2026-11-26 (UTC): Events and samples wait at the site until the next day", 2},
		{"20M", report(20e6, 20_000_000, traffic.ReportsWait), 0, "False ReportsWait: 20M of 20M are used on 2026-11-26 (UTC): status, Events and samples wait at the site until the next day", 2},
		{"40M", nil, time.Second, "Unknown NotConfirmed: the leaf has not reported yet that it keeps a budget of 40M a day", 3},
		{"40M", report(40e6, 20_000_000, traffic.Within), time.Second, "True AsExpected: nothing waits because of the budget of 40M a day", 3},
		{"", nil, time.Second, "", 4},
		{"", report(0, 20_000_000, traffic.Within), time.Second, "", 4},
	} {
		if now = now.Add(c.after); c.report != nil {
			reports.Record("plant-a", *c.report)
		}
		reports.apply("plant-a", spec(c.budget), &status, now)
		got := ""
		if cond := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionWithinBudget); cond != nil {
			got = fmt.Sprintf("%s %s: %s", cond.Status, cond.Reason, cond.Message)
		}
		if got != c.want || asked != c.asked {
			t.Errorf("budget %q, report %+v: asked %d times, %s\nwant %d, %s", c.budget, c.report, asked, got, c.asked, c.want)
		}
	}
	// The next bridge has received no report yet, and the leaf is not asked.
	reports.Record("plant-a", *report(20e6, 20_000_000, traffic.ReportsWait))
	reports.apply("plant-a", spec("20M"), &status, now)
	next := newReports(func() { t.Error("a leaf is asked that has the budget") })
	status.Connected = false
	next.apply("plant-a", spec("20M"), &status, now)
	if cond := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionWithinBudget); cond == nil || cond.Reason != v1alpha1.ReasonReportsWait {
		t.Errorf("after another bridge took over: %+v", cond)
	}
}
