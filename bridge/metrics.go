package bridge

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/bridge/antientropy"
	"github.com/petiole-io/petiole/bridge/site"
	"github.com/petiole-io/petiole/internal/logonce"
	"github.com/petiole-io/petiole/internal/metrics"
	"github.com/petiole-io/petiole/internal/version"
	"github.com/petiole-io/petiole/streams/inventory"
)

// The namespace and subsystem of all metrics of the bridge.
const (
	metricsNamespace = "petiole"
	metricsSubsystem = "bridge"
)

// instruments are the bridge's Prometheus metrics, in a registry of their own. The number of
// series depends only on the number of Sites. It is safe for concurrent use.
type instruments struct {
	registry *prometheus.Registry
	queues   *queueMetrics
	requests *requestMetrics
	sites    *site.Metrics
	health   *health

	leader, term prometheus.Gauge
	down         *prometheus.GaugeVec

	outages, checks, resyncs *prometheus.CounterVec
}

// newInstruments creates the metrics of a bridge. count is read at each scrape.
func newInstruments(count *counters) *instruments {
	t := &instruments{
		registry: prometheus.NewRegistry(),
		queues:   newQueueMetrics(), requests: newRequestMetrics(), sites: site.NewMetrics(), health: &health{},
		leader:  prometheus.NewGauge(gaugeOpts("leader", "Whether this bridge leads: 1 or 0.")),
		term:    prometheus.NewGauge(gaugeOpts("term", "The term of this bridge, 0 if it does not lead.")),
		down:    prometheus.NewGaugeVec(gaugeOpts("outage", "Whether an operation of the bridge fails at present: 1 or 0."), []string{"what"}),
		outages: counterVec("outages_total", "Number of times that an operation of the bridge started to fail.", "what"),
		checks:  counterVec("manifest_checks_total", "Completed comparisons of the inventories of sites.", "outcome"),
		resyncs: counterVec("resyncs_total", "Full resyncs of sites.", "reason"),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: "build_info", Help: "1, with the version of the bridge.",
		ConstLabels: prometheus.Labels{"version": version.String()},
	})
	build.Set(1)
	hub := prometheus.NewGaugeFunc(gaugeOpts("hub_connected", "Whether the hub is connected: 1 or 0."), func() float64 { return metrics.Bool(t.health.connected()) })
	t.registry.MustRegister(build, hub, t.leader, t.term, t.down, t.outages, t.checks, t.resyncs,
		t.queues, t.requests, t.sites, workMetrics{count},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return t
}

// startLeading records that this bridge leads, end that it no longer does.
func (t *instruments) startLeading() (end func()) {
	t.health.leading.Store(true)
	t.leader.Set(1)
	return func() {
		t.health.leading.Store(false)
		t.leader.Set(0)
	}
}

// acting records that all components of the leading bridge run; stopped that they no longer
// do, and drops the metrics of sites.
func (t *instruments) acting(term uint64) {
	t.health.acting.Store(true)
	t.term.Set(float64(term))
}

func (t *instruments) stopped() {
	t.health.acting.Store(false)
	t.term.Set(0)
	t.sites.Clear()
}

// outages logs and exports when operations that are retried start to fail, and when they work
// again.
type outages struct {
	reporter *logonce.Reporter
	metrics  *instruments
}

// newOutages returns outages according to which every operation works.
func (t *instruments) newOutages(log *zap.Logger) *outages {
	return &outages{metrics: t, reporter: logonce.New(log, func(operation string, failing bool) {
		t.down.WithLabelValues(slug(operation)).Set(metrics.Bool(failing))
		if failing {
			t.outages.WithLabelValues(slug(operation)).Inc()
		}
	})}
}

// of returns a function that takes the results of attempts at an operation.
func (o *outages) of(operation string) func(error) {
	report := o.ofParts(operation)
	return func(err error) { report("", err) }
}

// ofParts returns a function that takes the results of attempts at one part of an operation. It
// works if all parts do.
func (o *outages) ofParts(operation string) func(part string, err error) {
	o.metrics.down.WithLabelValues(slug(operation)).Set(0)
	o.metrics.outages.WithLabelValues(slug(operation)).Add(0) // the first outage is an increase as well
	return func(part string, err error) { o.reporter.ReportPart(operation, part, err) }
}

// syncHooks returns hooks that count comparisons and resyncs, and call changed after each
// change.
func (t *instruments) syncHooks(count *counters, changed func()) antientropy.Hooks {
	return antientropy.Hooks{
		Changed: changed,
		Checked: func(outcome inventory.State) { t.checks.WithLabelValues(string(outcome)).Inc() },
		Resynced: func(reason string) {
			count.resyncs.Add(1)
			t.resyncs.WithLabelValues(reason).Inc()
		},
	}
}

// slug turns words into a label value.
func slug(words string) string {
	b := []byte(words)
	for i, c := range b {
		switch {
		case c >= 'A' && c <= 'Z':
			b[i] = c + 'a' - 'A'
		case c == ' ':
			b[i] = '_'
		}
	}
	return string(b)
}

func gaugeOpts(name, help string) prometheus.GaugeOpts {
	return prometheus.GaugeOpts{Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: name, Help: help}
}

func counterVec(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: name, Help: help}, labels)
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(metricsNamespace, metricsSubsystem, name), help, labels, nil)
}

// workMetrics exports the counters, which are read at each scrape.
type workMetrics struct{ count *counters }

var (
	publishedDesc = desc("published_total", "Messages stored in DESIRED, by kind of change.", "change")
	reportsDesc   = desc("reports_total", "Reports of sites, by outcome.", "outcome")
	tokensDesc    = desc("tokens_issued_total", "Service account tokens issued to sites.")
	queriesDesc   = desc("manifest_queries_total", "Inventory queries of sites; one comparison takes several.")
	mismatchDesc  = desc("manifest_mismatches_total", "Comparisons that found a difference.")
	refusedDesc   = desc("requests_refused_total", "Requests of sites that were rejected: unknown, too large or too many.")
	epochsDesc    = desc("epochs_total", "New epochs: the API server's storage was restored or replaced.")
	externalDesc  = desc("foreign_messages_total", "Messages in DESIRED that another bridge published.")
)

// workCounters lists the counters without labels.
var workCounters = []struct {
	desc  *prometheus.Desc
	value func(Counters) uint64
}{
	{tokensDesc, func(c Counters) uint64 { return c.Tokens }},
	{queriesDesc, func(c Counters) uint64 { return c.Checks }},
	{mismatchDesc, func(c Counters) uint64 { return c.Mismatches }},
	{refusedDesc, func(c Counters) uint64 { return c.Refused }},
	{epochsDesc, func(c Counters) uint64 { return c.Epochs }},
	{externalDesc, func(c Counters) uint64 { return c.ExternalWrites }},
}

func (workMetrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- publishedDesc
	ch <- reportsDesc
	for _, w := range workCounters {
		ch <- w.desc
	}
}

func (w workMetrics) Collect(ch chan<- prometheus.Metric) {
	c := w.count.snapshot()
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	count(publishedDesc, c.Published, "put")
	count(publishedDesc, c.Tombstones, "delete")
	count(reportsDesc, c.Accepted, "accepted")
	count(reportsDesc, c.Dropped, "dropped")
	count(reportsDesc, c.Quarantined, "quarantined")
	count(reportsDesc, c.UnknownSite, "stray")
	count(reportsDesc, c.Deferred, "deferred")
	for _, w := range workCounters {
		count(w.desc, w.value(c))
	}
}
