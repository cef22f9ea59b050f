package leaf

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/petiole-io/petiole/leaf/forward"
	"github.com/petiole-io/petiole/leaf/replicate"
	"github.com/petiole-io/petiole/leaf/store"
	"github.com/petiole-io/petiole/leaf/transfer"
)

// counts are the leaf's counters, of a registry of its own.
type counts struct {
	registry    *prometheus.Registry
	linkChanges prometheus.Counter
	store       *store.Counters
	replicate   *replicate.Counters
	forward     *forward.Counters
	meter       *transfer.Meter
}

func newCounts() *counts {
	r := prometheus.NewRegistry()
	return &counts{
		registry:    r,
		linkChanges: promauto.With(r).NewCounter(prometheus.CounterOpts{Name: "petiole_leaf_link_changes_total", Help: "Changes of the link to the hub."}),
		store:       store.NewCounters(r), replicate: replicate.NewCounters(r), forward: forward.NewCounters(r), meter: transfer.NewMeter(r),
	}
}
