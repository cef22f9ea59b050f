package replicate

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Counters count what replicators did. Use NewCounters.
type Counters struct {
	replicated prometheus.Counter
	rewinds    prometheus.Counter
	resyncs    prometheus.Counter
	urgent     prometheus.Counter
	checks     *prometheus.CounterVec
}

// NewCounters returns counters that r collects. They outlive a replicator.
func NewCounters(r prometheus.Registerer) *Counters {
	counter := promauto.With(r)
	return &Counters{
		replicated: counter.NewCounter(prometheus.CounterOpts{Name: "petiole_leaf_replicated_total", Help: "Messages of DESIRED that were stored here."}),
		rewinds:    counter.NewCounter(prometheus.CounterOpts{Name: "petiole_leaf_rewinds_total", Help: "Times that the site requested messages again that it should have had."}),
		resyncs:    counter.NewCounter(prometheus.CounterOpts{Name: "petiole_leaf_resyncs_total", Help: "Times that the hub started to deliver everything again within a session."}),
		urgent:     counter.NewCounter(prometheus.CounterOpts{Name: "petiole_leaf_urgent_total", Help: "Urgent messages of DESIRED that were stored before their turn."}),
		checks:     counter.NewCounterVec(prometheus.CounterOpts{Name: "petiole_leaf_manifest_comparisons_total", Help: "Comparisons of the inventory with the bridge's."}, []string{"outcome"}),
	}
}
