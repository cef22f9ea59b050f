package bridge

import (
	"context"
	"errors"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"sigs.k8s.io/yaml"

	"github.com/petiole-io/petiole/bridge/antientropy"
	"github.com/petiole-io/petiole/bridge/lease"
	"github.com/petiole-io/petiole/streams/inventory"
)

// metricNames returns the names of all metrics, including those without series yet.
func metricNames(r *prometheus.Registry) map[string]bool {
	descs := make(chan *prometheus.Desc)
	go func() {
		r.Describe(descs)
		close(descs)
	}()
	fq := regexp.MustCompile(`fqName: "([^"]+)"`)
	out := map[string]bool{}
	for d := range descs {
		out[fq.FindStringSubmatch(d.String())[1]] = true
	}
	return out
}

// TestAlertsAreAboutMetricsThatExist: an alert about a metric that was renamed never
// fires.
func TestAlertsAreAboutMetricsThatExist(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../deploy/kubernetes/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string `json:"name"`
			Rules []struct {
				Alert       string            `json:"alert"`
				Expr        string            `json:"expr"`
				For         string            `json:"for"`
				Labels      map[string]string `json:"labels"`
				Annotations map[string]string `json:"annotations"`
			} `json:"rules"`
		} `json:"groups"`
	}
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		t.Fatal(err)
	}
	docs, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	known := metricNames(newInstruments(&counters{}).registry)
	metric := regexp.MustCompile(`petiole_[a-z_]+`)
	alerts := 0
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			alerts++
			used := metric.FindAllString(r.Expr, -1)
			if len(used) == 0 || r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("alert %s is incomplete", r.Alert)
			}
			if !strings.Contains(string(docs), "\n| `"+r.Alert+"` | ") {
				t.Errorf("docs/operations.md has no row for alert %s", r.Alert)
			}
			for _, m := range used {
				if !known[m] {
					t.Errorf("alert %s is about %s, which is not there", r.Alert, m)
				}
			}
		}
	}
	if alerts < 5 {
		t.Errorf("%d alerts", alerts)
	}
}

func TestRepairsAreCountedByOutcome(t *testing.T) {
	t.Parallel()
	var count counters
	m := newInstruments(&count)
	s := antientropy.NewStates(m.syncHooks(&count, func() {}))
	s.Checked("plant-a", noon, inventory.Equal)
	s.Mismatch("plant-a")
	s.Checked("plant-a", noon.Add(time.Second), inventory.Repairing)
	s.Resynced("plant-a", noon, antientropy.ResyncMismatch, "")
	s.Checked("plant-b", noon, inventory.Equal)
	if a := s.Get("plant-a"); a.Outcome != inventory.Repairing || a.Mismatches != 1 || a.MismatchesInRow != 1 || !a.Resynced.Equal(noon) {
		t.Errorf("state %+v", a)
	}
	for outcome, want := range map[string]float64{"equal": 2, "repairing": 1} {
		if got := testutil.ToFloat64(m.checks.WithLabelValues(outcome)); got != want {
			t.Errorf("%v comparisons were %s, want %v", got, outcome, want)
		}
	}
	if got := testutil.ToFloat64(m.resyncs.WithLabelValues(antientropy.ResyncMismatch)); got != 1 || count.resyncs.Load() != 1 {
		t.Errorf("%v resyncs", got)
	}
}

func TestOutagesAreCounted(t *testing.T) {
	t.Parallel()
	m := newInstruments(&counters{})
	report := m.newOutages(zap.NewNop()).of("watch the API server")
	for _, err := range []error{errors.New("away"), errors.New("away"), nil, errors.New("away")} {
		report(err)
	}
	if got := testutil.ToFloat64(m.outages.WithLabelValues("watch_the_api_server")); got != 2 {
		t.Errorf("%v outages, want 2", got)
	}
	if got := testutil.ToFloat64(m.down.WithLabelValues("watch_the_api_server")); got != 1 {
		t.Error("the outage is over for the metrics only")
	}
}

func TestOutageLogsChangesOfState(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.DebugLevel)
	report, down := newInstruments(&counters{}).newOutages(zap.New(core)).ofParts("API server"), errors.New("refused")
	for _, step := range []struct {
		part  string
		err   error
		lines int
	}{
		{"pods", nil, 0},
		{"pods", down, 1},
		{"pods", down, 1},
		{"nodes", down, 1},
		{"pods", nil, 1},
		{"nodes", nil, 2},
		{"nodes", nil, 2},
		{"nodes", down, 3},
	} {
		report(step.part, step.err)
		if n := logs.Len(); n != step.lines {
			t.Errorf("after %+v there are %d lines", step, n)
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestRequestsAreCounted(t *testing.T) {
	t.Parallel()
	m := newRequestMetrics()
	if m.lastFailure(noon, time.Second) == nil {
		t.Error("an API server that has never answered works")
	}
	answer := func(code int, err error) {
		t.Helper()
		request, rerr := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://api/x", nil)
		if rerr != nil {
			t.Fatal(rerr)
		}
		_, got := m.transport(roundTripper(func(*http.Request) (*http.Response, error) {
			if err != nil {
				return nil, err
			}
			return &http.Response{StatusCode: code, Body: http.NoBody}, nil
		})).RoundTrip(request)
		if !errors.Is(got, err) {
			t.Errorf("error %v became %v", err, got)
		}
	}
	for code, want := range map[int]string{200: "2xx", 201: "2xx", 302: "3xx", 404: "404", 409: "409", 422: "4xx", 429: "429", 503: "5xx"} {
		if got := codeClass(code); got != want {
			t.Errorf("%d counts as %s, want %s", code, got, want)
		}
	}
	answer(409, nil)
	if err := m.lastFailure(time.Now(), 0); err != nil {
		t.Errorf("an API server that refuses does not work: %v", err)
	}
	answer(0, context.Canceled)
	answer(0, lease.ErrNotLeading)
	if err := m.lastFailure(time.Now(), 0); err != nil {
		t.Errorf("what was not sent speaks against the API server: %v", err)
	}
	answer(503, nil)
	answer(0, errors.New("connection refused"))
	if err := m.lastFailure(time.Now(), time.Minute); err != nil {
		t.Errorf("no grace: %v", err)
	}
	if err := m.lastFailure(time.Now().Add(time.Hour), time.Minute); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("after an hour without answers: %v", err)
	}
	for code, want := range map[string]float64{"409": 1, "5xx": 1, "error": 1} {
		if got := testutil.ToFloat64(m.total.WithLabelValues(http.MethodGet, code)); got != want {
			t.Errorf("%v requests with %s, want %v", got, code, want)
		}
	}
	answer(200, nil)
	if err := m.lastFailure(time.Now().Add(time.Hour), time.Minute); err != nil {
		t.Errorf("it answers again: %v", err)
	}
}

func TestReadyWhenItActsOrStandsBy(t *testing.T) {
	t.Parallel()
	b := New(DefaultConfig(), zap.NewNop())
	err := b.ready()
	if err == nil || !strings.Contains(err.Error(), "API server: no answer yet") || !strings.Contains(err.Error(), "hub: not connected") {
		t.Errorf("a bridge that has just been made: %v", err)
	}
	end := b.metrics.startLeading()
	if err := b.ready(); !strings.Contains(err.Error(), "leading, but not active yet") {
		t.Errorf("a bridge that leads and does nothing: %v", err)
	}
	b.metrics.acting(7)
	if err := b.ready(); strings.Contains(err.Error(), "acting") || testutil.ToFloat64(b.metrics.term) != 7 {
		t.Errorf("a bridge that acts: %v", err)
	}
	b.metrics.stopped()
	end()
	if testutil.ToFloat64(b.metrics.leader) != 0 || testutil.ToFloat64(b.metrics.term) != 0 {
		t.Error("a bridge that does not lead any more says that it does")
	}
}
