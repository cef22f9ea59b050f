package bridgetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge"
	"github.com/petiole-io/petiole/internal/metrics/metricstest"
	"github.com/petiole-io/petiole/internal/porttest"
)

func get(t *testing.T, url string) (int, string, error) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return r.StatusCode, string(body), err
}

// scrape reads the metrics by name.
func scrape(t *testing.T, url string) map[string]*dto.MetricFamily {
	t.Helper()
	code, body, err := get(t, url+"/metrics")
	if err != nil || code != http.StatusOK {
		t.Fatalf("scrape: %d, %v", code, err)
	}
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// seriesOf counts a family's series as Prometheus stores them.
func seriesOf(f *dto.MetricFamily) int {
	n := 0
	for _, m := range f.Metric {
		switch {
		case m.Histogram != nil:
			n += len(m.Histogram.Bucket) + 2
		case m.Summary != nil:
			n += len(m.Summary.Quantile) + 2
		default:
			n++
		}
	}
	return n
}

func servesMetrics(t *testing.T, a *api) {
	const sites = 300
	w := newWorld(t, a, "plant-a")
	for i := range sites - 1 {
		w.createSite(fmt.Sprintf("site-%03d", i))
	}
	w.metrics = porttest.Addr(t)
	url := "http://" + w.metrics
	b := w.start("one")
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	s := w.site("plant-a")
	s.register("a1")
	eventually(t, "readiness", func() bool { code, _, err := get(t, url+"/readyz"); return err == nil && code == http.StatusOK })
	value := func(name string, labels ...string) float64 {
		f := scrape(t, url)[name]
		for _, m := range f.GetMetric() {
			var got []string
			for _, l := range m.Label {
				got = append(got, l.GetName()+"="+l.GetValue())
			}
			if slices.Equal(got, labels) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
		return -1
	}
	eventually(t, "a series for each site", func() bool { return len(scrape(t, url)["petiole_bridge_site_connected"].GetMetric()) == sites })
	eventually(t, "backlog of a site", func() bool { return value("petiole_bridge_site_pending_objects", "site=plant-a") > 0 })
	if value("petiole_bridge_leader") != 1 || value("petiole_bridge_hub_connected") != 1 || value("petiole_bridge_term") < 1 ||
		value("petiole_bridge_published_total", "change=put") < 1 || value("petiole_bridge_reports_total", "outcome=accepted") < 1 || value("petiole_bridge_site_oldest_pending_seconds", "site=plant-a") <= 0 {
		t.Errorf("metrics of a bridge that leads: %v", scrape(t, url))
	}

	_, body, err := get(t, url+"/metrics")
	w.must(err)
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	w.must(err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	perSite, rest := 0, 0
	for name, f := range scrape(t, url) {
		if !strings.HasPrefix(name, "petiole_bridge_") && !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
			t.Errorf("metric %s", name)
		}
		if strings.HasPrefix(name, "petiole_bridge_site_") {
			perSite += seriesOf(f)
		} else {
			rest += seriesOf(f)
		}
	}
	t.Logf("%d series for %d sites, %d others", perSite, sites, rest)
	if perSite != sites*20 || rest > 500 {
		t.Errorf("%d series for %d sites, want 20 for each; %d others, want at most 500", perSite, sites, rest)
	}

	w.must(w.dynamic.Resource(sitesGVR).Delete(w.ctx, "site-007", metav1.DeleteOptions{}))
	eventually(t, "a site that is gone has no series", func() bool { return value("petiole_bridge_site_connected", "site=site-007") == -1 })

	// A standby has no series of sites, and is ready.
	one := w.metrics
	w.metrics = porttest.Addr(t)
	url = "http://" + w.metrics
	w.start("two")
	eventually(t, "readiness to stand by", func() bool { code, _, err := get(t, url+"/readyz"); return err == nil && code == http.StatusOK })
	if value("petiole_bridge_leader") != 0 || len(scrape(t, url)["petiole_bridge_site_connected"].GetMetric()) != 0 {
		t.Error("a standby has series of sites")
	}
	b.stop()
	if _, _, err := get(t, "http://"+one+"/healthz"); err == nil {
		t.Error("a bridge that has stopped answers")
	}
	w.hub.Stop()
	eventually(t, "not ready without the hub", func() bool {
		code, body, err := get(t, url+"/readyz")
		return err == nil && code == http.StatusServiceUnavailable && strings.Contains(body, "hub: not connected")
	})
	if code, _, err := get(t, url+"/healthz"); err != nil || code != http.StatusOK {
		t.Errorf("alive without the hub: %d, %v", code, err)
	}
}

// documentsMetrics: the types in docs/operations.md are those of a bridge with a site.
func documentsMetrics(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	w.metrics = porttest.Addr(t)
	url := "http://" + w.metrics
	w.start("one")
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	w.site("plant-a").register("a1")
	const least = 30 // those of sites, of queues and of requests included
	eventually(t, "metrics of the site", func() bool {
		code, body, err := get(t, url+"/metrics")
		return err == nil && code == http.StatusOK && strings.Contains(body, `petiole_bridge_site_nodes{site="plant-a"} 1`)
	})
	families := scrape(t, url)
	if len(families) < least {
		t.Errorf("%d metrics", len(families))
	}
	metricstest.CompareTypes(t, metricstest.Documented(t, "../../docs/operations.md", "petiole_"), "petiole_", slices.Collect(maps.Values(families)))
	_, body, err := get(t, url+"/metrics")
	w.must(err)
	metricstest.Keep(t, "bridge", body)
}

func TestAnAddressThatIsTakenEndsTheBridge(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := bridge.DefaultConfig()
	cfg.NATS.URLs, cfg.Metrics.Listen = []string{"nats://127.0.0.1:1"}, l.Addr().String()
	cfg.Kubernetes.Kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(cfg.Kubernetes.Kubeconfig, []byte(nowhere), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := bridge.New(cfg, zap.NewNop()).Run(ctx); err == nil || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("Run = %v, want an error that names the address", err)
	}
}

// nowhere is a kubeconfig of an API server that is not there.
const nowhere = `
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
contexts: [{name: x, context: {cluster: c}}]
current-context: x
`
