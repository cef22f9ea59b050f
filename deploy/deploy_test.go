package deploy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/petiole-io/petiole/internal/metrics/metricstest"
)

var metric = regexp.MustCompile(`petiole_[a-z_]+`)

// suffix is what a histogram's series have after its name.
var suffix = regexp.MustCompile(`_(bucket|sum|count)$`)

// TestDashboardsShowMetricsThatExist: a panel about a metric that was renamed is empty, and nobody
// notices. `go tool task metrics` has a Prometheus evaluate the queries.
func TestDashboardsShowMetricsThatExist(t *testing.T) {
	t.Parallel()
	known := metricstest.Documented(t, "../docs/operations.md", "petiole_")
	for name, least := range map[string]int{"fleet": 20, "site": 20} {
		data, err := os.ReadFile(filepath.Join("grafana", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var d struct {
			UID    string `json:"uid"`
			Panels []struct {
				ID      int    `json:"id"`
				Type    string `json:"type"`
				Title   string `json:"title"`
				Targets []struct {
					Expr string `json:"expr"`
				} `json:"targets"`
			} `json:"panels"`
		}
		if err := json.Unmarshal(data, &d); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d.UID != "petiole-"+name {
			t.Errorf("%s has the uid %s, which links name", name, d.UID)
		}
		var ids []int
		panels := 0
		for _, p := range d.Panels {
			if slices.Contains(ids, p.ID) {
				t.Errorf("%s: two panels have the id %d", name, p.ID)
			}
			ids = append(ids, p.ID)
			if p.Type == "row" {
				continue
			}
			panels++
			for _, target := range p.Targets {
				used := metric.FindAllString(target.Expr, -1)
				if len(used) == 0 {
					t.Errorf("%s, %s: no metric in %s", name, p.Title, target.Expr)
				}
				for _, m := range used {
					base := suffix.ReplaceAllString(m, "")
					if known[m].Type == "" && (known[base].Type != "histogram" || !strings.HasSuffix(m, "_bucket")) {
						t.Errorf("%s, %s: %s does not exist", name, p.Title, m)
					}
				}
			}
			if len(p.Targets) == 0 {
				t.Errorf("%s, %s has no query", name, p.Title)
			}
		}
		if panels < least {
			t.Errorf("%s has %d panels", name, panels)
		}
	}
}
