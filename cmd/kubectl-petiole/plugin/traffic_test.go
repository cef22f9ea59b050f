package plugin

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
)

// TestTraffic shows the last day by kind, and each day on request.
func TestTraffic(t *testing.T) {
	a := &apiServer{t: t}
	run := a.start()
	code, out, errOut := run("traffic", "plant-a")
	if code != 0 || out != "" || !strings.Contains(errOut, "has not reported") {
		t.Errorf("without a report: code %d, %q, %q", code, out, errOut)
	}
	budget := resource.MustParse("20M")
	a.mu.Lock()
	a.site.Status.Traffic = &v1alpha1.SiteTraffic{
		Date: "2026-11-26", Bytes: resource.MustParse("2001k"), DailyBytes: &budget, Time: metav1.NewTime(time.Now().Add(-12 * time.Minute)),
		Days: []v1alpha1.SiteTrafficDay{
			{Date: "2026-11-26", Kinds: []v1alpha1.SiteTrafficKind{{Kind: "desired", Up: 20, Down: 1_250_000}, {Kind: "protocol", Up: 2000, Down: 747_980}}},
			{Date: "2026-11-25", Estimated: true, Kinds: []v1alpha1.SiteTrafficKind{{Kind: "heartbeats", Up: 3_000_000_000}}},
		},
	}
	a.mu.Unlock()
	const today = `DATE KIND UP DOWN TOTAL SHARE
2026-11-26 desired 20 1.2M 1.3M 63%
2026-11-26 protocol 2.0k 748.0k 750.0k 37%
2026-11-26 total 2.0k 2.0M 2.0M 100%
`
	for args, want := range map[string]string{
		"traffic plant-a":              today + "2026-11-25 total 3.0G 0 3.0G 100%\n",
		"traffic plant-a --all":        today + "2026-11-25 heartbeats 3.0G 0 3.0G 100%\n2026-11-25 total 3.0G 0 3.0G 100%\n",
		"traffic plant-a -o name":      "site.petiole.dev/plant-a\n",
		"traffic plant-a --no-headers": strings.SplitAfterN(today, "\n", 2)[1] + "2026-11-25 total 3.0G 0 3.0G 100%\n",
		"traffic plant-a -o jsonpath={.status.traffic.days[0].kinds[0].up}": "20",
	} {
		code, out, errOut := run(strings.Fields(args)...)
		if got := regexp.MustCompile(` +`).ReplaceAllString(out, " "); code != 0 || got != want {
			t.Errorf("%s: code %d, %s\n%s, want\n%s", args, code, errOut, got, want)
		}
		if args == "traffic plant-a" && (!strings.Contains(errOut, "2026-11-25") || !strings.Contains(errOut, "2001k of 20M on 2026-11-26, reported 12m ago.")) {
			t.Errorf("%q", errOut)
		}
	}
	if code, out, _ := run("status", "plant-a"); code != 0 || !strings.Contains(out, "2001k of 20M on 2026-11-26 (UTC), reported 12m ago") {
		t.Errorf("status: code %d\n%s", code, out)
	}
	if code, _, errOut := run("traffic", "plant-x"); code != 1 || !strings.HasPrefix(errOut, "Error from server (NotFound): ") {
		t.Errorf("unknown site: code %d, %q", code, errOut)
	}
}
