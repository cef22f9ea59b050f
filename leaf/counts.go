package leaf

import (
	"github.com/prometheus/client_golang/prometheus"
)

// counts are the leaf's counters, of a registry of its own.
type counts struct {
	registry    *prometheus.Registry
	linkChanges prometheus.Counter
	replicated  prometheus.Counter
	rewinds     prometheus.Counter
	resyncs     prometheus.Counter
	checks      *prometheus.CounterVec
	forwarded   *prometheus.CounterVec
	passedOver  *prometheus.CounterVec
	compacted   prometheus.Counter
	restarts    prometheus.Counter
	rebuilt     *prometheus.CounterVec
}

func newCounts() *counts {
	c := &counts{
		registry:    prometheus.NewRegistry(),
		linkChanges: counter("link_changes_total", "Changes of the link to the hub."),
		replicated:  counter("replicated_total", "Messages of DESIRED that were stored here."),
		rewinds:     counter("rewinds_total", "Times that the site requested messages again that it should have had."),
		resyncs:     counter("resyncs_total", "Times that the hub started to deliver everything again within a session."),
		checks:      counters("manifest_comparisons_total", "Comparisons of the inventory with the bridge's.", "outcome"),
		forwarded:   counters("forwarded_total", "Messages that the hub acknowledged.", "stream"),
		passedOver:  counters("passed_over_total", "Messages whose acknowledgement was lost and that the hub had already.", "stream"),
		compacted:   counter("tombstones_trimmed_total", "Tombstones, and parts of deleted objects, that were deleted from SITE_DESIRED."),
		restarts:    counter("server_restarts_total", "Restarts of the embedded server: its store had stopped accepting messages, or it no longer tried to reach the hub."),
		rebuilt:     counters("streams_rebuilt_total", "Streams that were set aside because their files were damaged.", "stream"),
	}
	c.registry.MustRegister(c.linkChanges, c.replicated, c.rewinds, c.resyncs, c.checks, c.forwarded, c.passedOver, c.compacted, c.restarts, c.rebuilt)
	return c
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "petiole", Subsystem: "leaf", Name: name, Help: help})
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "petiole", Subsystem: "leaf", Name: name, Help: help}, labels)
}
