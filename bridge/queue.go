package bridge

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/util/workqueue"
)

// waitBuckets are the buckets of durations, from 1 ms to about 4 min.
var waitBuckets = prometheus.ExponentialBuckets(0.001, 4, 10)

// The longest delays between retries. While the hub is unavailable, publishing fails at once:
// a retry costs little, and a long delay would hold back the sites' updates.
const (
	publishRetry = 2 * time.Second
	writeRetry   = 5 * time.Second
)

// newQueue creates a queue with metrics under its name. longest is the longest delay between
// retries.
func newQueue[T comparable](t *instruments, name string, longest time.Duration) workqueue.TypedRateLimitingInterface[T] {
	cfg := newQueueConfig[T](t, name)
	return withRetries(cfg, workqueue.NewTypedWithConfig(cfg), longest)
}

// newQueueConfig returns the configuration of a new queue with metrics under its name.
func newQueueConfig[T comparable](t *instruments, name string) workqueue.TypedQueueConfig[T] {
	t.queues.reset(name)
	return workqueue.TypedQueueConfig[T]{Name: name, MetricsProvider: t.queues}
}

// withRetries adds retries to a queue of that configuration. longest is the longest delay between
// them.
func withRetries[T comparable](cfg workqueue.TypedQueueConfig[T], q workqueue.TypedInterface[T], longest time.Duration) workqueue.TypedRateLimitingInterface[T] {
	delays := workqueue.NewTypedItemExponentialFailureRateLimiter[T](100*time.Millisecond, longest)
	return workqueue.NewTypedRateLimitingQueueWithConfig(delays, workqueue.TypedRateLimitingQueueConfig[T]{
		DelayingQueue: workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[T]{
			Name: cfg.Name, MetricsProvider: cfg.MetricsProvider, Queue: q,
		}),
	})
}

// queueMetrics holds the metrics of the queues by name. It implements
// workqueue.MetricsProvider. The provider of component-base cannot be used: it counts in a
// global registry, and cannot reset the gauges of a queue that was shut down with items in
// it, as happens at each loss of leadership.
type queueMetrics struct {
	depth, unfinished, longest *prometheus.GaugeVec
	adds, retries              *prometheus.CounterVec
	wait, work                 *prometheus.HistogramVec
}

func newQueueMetrics() *queueMetrics {
	labels := []string{"queue"}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(gaugeOpts(name, help), labels)
	}
	histogram := func(name, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: name, Help: help, Buckets: waitBuckets,
		}, labels)
	}
	return &queueMetrics{
		depth:      gauge("queue_depth", "Items that wait in a queue."),
		unfinished: gauge("queue_unfinished_work_seconds", "Sum of the time that items in progress have taken so far."),
		longest:    gauge("queue_longest_running_seconds", "Time that the longest item in progress has taken so far."),
		adds:       counterVec("queue_adds_total", "Items added to a queue.", labels...),
		retries:    counterVec("queue_retries_total", "Items added to a queue again after a failure.", labels...),
		wait:       histogram("queue_wait_seconds", "Time that items wait in a queue."),
		work:       histogram("queue_work_seconds", "Time that processing an item takes."),
	}
}

// reset clears the gauges of a queue that was shut down.
func (m *queueMetrics) reset(queue string) {
	for _, g := range []*prometheus.GaugeVec{m.depth, m.unfinished, m.longest} {
		g.WithLabelValues(queue).Set(0)
	}
}

// Describe implements prometheus.Collector.
func (m *queueMetrics) Describe(ch chan<- *prometheus.Desc) {
	m.each(func(c prometheus.Collector) { c.Describe(ch) })
}

// Collect implements prometheus.Collector.
func (m *queueMetrics) Collect(ch chan<- prometheus.Metric) {
	m.each(func(c prometheus.Collector) { c.Collect(ch) })
}

func (m *queueMetrics) each(do func(prometheus.Collector)) {
	for _, c := range []prometheus.Collector{m.depth, m.unfinished, m.longest, m.adds, m.retries, m.wait, m.work} {
		do(c)
	}
}

// NewDepthMetric implements workqueue.MetricsProvider, like the following methods.
func (m *queueMetrics) NewDepthMetric(queue string) workqueue.GaugeMetric {
	return m.depth.WithLabelValues(queue)
}

func (m *queueMetrics) NewAddsMetric(queue string) workqueue.CounterMetric {
	return m.adds.WithLabelValues(queue)
}

func (m *queueMetrics) NewLatencyMetric(queue string) workqueue.HistogramMetric {
	return m.wait.WithLabelValues(queue)
}

func (m *queueMetrics) NewWorkDurationMetric(queue string) workqueue.HistogramMetric {
	return m.work.WithLabelValues(queue)
}

func (m *queueMetrics) NewUnfinishedWorkSecondsMetric(queue string) workqueue.SettableGaugeMetric {
	return m.unfinished.WithLabelValues(queue)
}

func (m *queueMetrics) NewLongestRunningProcessorSecondsMetric(queue string) workqueue.SettableGaugeMetric {
	return m.longest.WithLabelValues(queue)
}

func (m *queueMetrics) NewRetriesMetric(queue string) workqueue.CounterMetric {
	return m.retries.WithLabelValues(queue)
}
