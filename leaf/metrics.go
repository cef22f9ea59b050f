package leaf

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/petiole-io/petiole/internal/metrics"
	"github.com/petiole-io/petiole/leaf/clock"
	"github.com/petiole-io/petiole/leaf/hubcheck"
	"github.com/petiole-io/petiole/leaf/link"
	"github.com/petiole-io/petiole/leaf/natsd"
	"github.com/petiole-io/petiole/leaf/node"
	"github.com/petiole-io/petiole/leaf/store"
	"github.com/petiole-io/petiole/streams"
)

// gauges collects the state of the leaf when it is scraped.
type gauges struct {
	status *status
	link   *link.Link
	store  *store.Supervisor
	node   nodeState
	// kubelet is nil if the leaf runs none.
	kubelet *node.Kubelet
	clock   *clock.Clock
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("petiole_leaf_"+name, help, labels, nil)
}

var (
	descLinkUp      = desc("link_up", "Whether the link to the hub is up.")
	descPending     = desc("pending_messages", "Messages that the hub has not acknowledged.", "stream")
	descUnapplied   = desc("unapplied_messages", "Messages of SITE_DESIRED that the slowest consumer has not taken over.")
	descApplied     = desc("applied_sequence", "Sequence of DESIRED up to which the node API has taken over everything; 0 when not known.")
	descDropped     = desc("dropped_total", "Records that were dropped before the hub had them, since the store was made.", "stream", "reason")
	descQuarantined = desc("quarantined_messages", "Messages that could not be read since the start.")
	descDiskFree    = desc("disk_free_bytes", "Free space of the disk that holds the store.")
	descKubelet     = desc("kubelet_failing", "Whether the kubelet exits again and again, or does not renew the lease of its node.")
	descExits       = desc("kubelet_exits_total", "Exits of the kubelet that the leaf did not ask for, since the start of the leaf.")
	descClockOffset = desc("clock_offset_seconds", "How far the hub's clock is ahead of the gateway's, as measured when the link came up last.")
	descClockError  = desc("clock_error_seconds", "The largest error of petiole_leaf_clock_offset_seconds.")
	descClockState  = desc("clock_state", "What is known of the gateway's clock: 1 for one of right, unset, unverified, wrong.", "state")
	descDegraded    = desc("store_degraded", "Whether the store is degraded, by what is wrong with it.", "reason")
)

// Describe implements prometheus.Collector.
func (g *gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descLinkUp, descPending, descUnapplied, descApplied, descDropped, descQuarantined, descDiskFree, descDegraded, descKubelet, descExits, descClockOffset, descClockError, descClockState} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), statusWait)
	defer cancel()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	up, _, _ := g.link.State()
	gauge(descLinkUp, metrics.Bool(up))
	now := g.status.read(ctx)
	for stream, n := range now.pending {
		gauge(descPending, float64(n), stream)
	}
	gauge(descUnapplied, float64(now.unapplied))
	gauge(descApplied, float64(g.node.AppliedSource()))
	gauge(descQuarantined, float64(now.quarantined))
	g.store.Drops().Each(func(stream, reason string, n uint64) {
		out <- prometheus.MustNewConstMetric(descDropped, prometheus.CounterValue, float64(n), stream, reason)
	})
	if free, ok := g.store.DiskFree(); ok {
		gauge(descDiskFree, float64(free))
	}
	is := map[string]bool{}
	for _, name := range now.degraded {
		is[name] = true
	}
	for _, name := range []string{streams.DegradedDiskFull, streams.DegradedStore} {
		gauge(descDegraded, metrics.Bool(is[name]), name)
	}
	if offset, most, measured := g.clock.Offset(); measured {
		gauge(descClockOffset, offset.Seconds())
		gauge(descClockError, most.Seconds())
	}
	present := g.clock.State()
	for _, s := range []clock.State{clock.Right, clock.Unset, clock.Unverified, clock.Wrong} {
		gauge(descClockState, metrics.Bool(s == present), string(s))
	}
	if g.kubelet != nil {
		gauge(descKubelet, metrics.Bool(is[streams.DegradedKubelet]))
		out <- prometheus.MustNewConstMetric(descExits, prometheus.CounterValue, float64(g.kubelet.Exits()))
	}
}

// expose serves metrics and health at an endpoint until ctx ends: /healthz fails while JetStream does
// not store, /readyz as ready does. An empty address serves nothing.
func expose(ctx context.Context, at metrics.Endpoint, c *counts, more []prometheus.Collector, embedded *natsd.Server, ready func() error) error {
	gather := prometheus.NewRegistry()
	gather.MustRegister(append(more, collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))...)
	healthy := func() error {
		if embedded == nil {
			return nil
		}
		return embedded.Health()
	}
	return metrics.Serve(ctx, at, prometheus.Gatherers{c.registry, gather}, healthy, ready)
}

// readiness returns a check that fails until the node API answers, while kubelet returns what is
// wrong with it, while the hub lacks something that the site needs, and while the hub's certificate is
// not valid by the gateway's clock.
func readiness(api <-chan struct{}, kubelet func() string, hub *hubcheck.Checker, now *clock.Clock, h *natsd.Server) func() error {
	return func() error {
		select {
		case <-api:
		default:
			return errors.New("the node API does not answer yet")
		}
		if what := kubelet(); what != "" {
			return errors.New(what)
		}
		if h != nil && natsd.CertificateRefused(h) != "" {
			return fmt.Errorf("TLS to the hub: %s; the clock of this gateway is %s: set it, as with NTP", natsd.CertificateRefused(h), now.State())
		}
		return hub.Err()
	}
}
