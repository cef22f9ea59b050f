package bridgetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/petiole-io/petiole/bridge"
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
	if perSite != sites*17 || rest > 500 {
		t.Errorf("%d series for %d sites, want 17 for each; %d others, want at most 500", perSite, sites, rest)
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

// deploymentIsValid: the API server accepts the manifest without a warning, and the bridge the
// configuration in it.
func deploymentIsValid(t *testing.T, a *api) {
	data, err := os.ReadFile("../../deploy/kubernetes/bridge.yaml")
	if err != nil {
		t.Fatal(err)
	}
	rc := rest.CopyConfig(a.config)
	var warnings warnings
	rc.WarningHandler = &warnings
	client, err := dynamic.NewForConfig(rc)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096); ; {
		var o unstructured.Unstructured
		if err := d.Decode(&o.Object); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		gvr, _ := meta.UnsafeGuessKindToResource(o.GroupVersionKind())
		if o.GetKind() == "NetworkPolicy" {
			gvr.Resource = "networkpolicies"
		}
		opts := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict}
		if _, err := client.Resource(gvr).Namespace(o.GetNamespace()).Create(t.Context(), &o, opts); err != nil {
			t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
		kinds[o.GetKind()]++
		if o.GetKind() != "ConfigMap" {
			continue
		}
		text, _, err := unstructured.NestedString(o.Object, "data", "bridge.yaml")
		path := filepath.Join(t.TempDir(), "bridge.yaml")
		if err != nil || os.WriteFile(path, []byte(text), 0o600) != nil {
			t.Fatal(err)
		}
		if cfg, err := bridge.LoadConfig(path); err != nil || cfg.Metrics.Listen != ":10442" {
			t.Errorf("configuration %+v, %v", cfg, err)
		}
	}
	if kinds["Deployment"] != 1 || kinds["Service"] != 2 || kinds["ConfigMap"] != 1 { // a Service for metrics, and one for the kubelet API
		t.Errorf("kinds %v", kinds)
	}
	if len(warnings) > 0 {
		t.Errorf("the API server warns: %v", warnings)
	}
}

// warnings are those of an API server.
type warnings []string

func (w *warnings) HandleWarningHeader(_ int, _ string, text string) { *w = append(*w, text) }
