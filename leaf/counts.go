package leaf

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/petiole-io/petiole/leaf/forward"
	"github.com/petiole-io/petiole/leaf/store"
)

// counts are the leaf's counters, of a registry of its own.
type counts struct {
	registry    *prometheus.Registry
	store       *store.Counters
	forward     *forward.Counters
	linkChanges prometheus.Counter
	replicated  prometheus.Counter
	rewinds     prometheus.Counter
	resyncs     prometheus.Counter
	checks      *prometheus.CounterVec
}

func newCounts() *counts {
	c := &counts{
		registry:    prometheus.NewRegistry(),
		linkChanges: counter("link_changes_total", "Changes of the link to the hub."),
		replicated:  counter("replicated_total", "Messages of DESIRED that were stored here."),
		rewinds:     counter("rewinds_total", "Times that the site requested messages again that it should have had."),
		resyncs:     counter("resyncs_total", "Times that the hub started to deliver everything again within a session."),
		checks:      counters("manifest_comparisons_total", "Comparisons of the inventory with the bridge's.", "outcome"),
	}
	c.registry.MustRegister(c.linkChanges, c.replicated, c.rewinds, c.resyncs, c.checks)
	c.store, c.forward = store.NewCounters(c.registry), forward.NewCounters(c.registry)
	return c
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "petiole", Subsystem: "leaf", Name: name, Help: help})
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "petiole", Subsystem: "leaf", Name: name, Help: help}, labels)
}
