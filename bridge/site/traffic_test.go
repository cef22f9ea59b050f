package site

import (
	"fmt"
	"testing"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/streams/traffic"
)

// TestTrafficOfReports has a leaf report all days, then those that change, and then a day that is
// earlier because the bridge's clock was wrong.
func TestTrafficOfReports(t *testing.T) {
	day := func(date string, up uint64) traffic.Day {
		return traffic.Day{Date: date, Up: map[string]uint64{"desired": up}, Down: map[string]uint64{"protocol": 7}}
	}
	reports := NewTraffic(func(site string) bool { return site == "plant-a" }, func() {})
	reports.Record("plant-x", traffic.Report{Days: []traffic.Day{day("2026-11-26", 5)}})
	if got := reports.status("plant-x", nil); got != nil {
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
		status = reports.status("plant-a", status)
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
	next := NewTraffic(func(string) bool { return true }, func() {})
	if got := next.status("plant-a", status); got != status {
		t.Errorf("%+v, want what the Site's status has", got)
	}
	next.Record("plant-a", traffic.Report{Days: []traffic.Day{day("2026-11-26", 2_200_000)}})
	if got := next.status("plant-a", status); len(got.Days) != 2 || got.Bytes.String() != "2201k" {
		t.Errorf("%+v, want the new day and the one before", got)
	}
}
