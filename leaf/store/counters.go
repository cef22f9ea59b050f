package store

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Counters count what supervisors did. Use NewCounters.
type Counters struct {
	compacted prometheus.Counter
	restarts  prometheus.Counter
	rebuilt   *prometheus.CounterVec
}

// NewCounters returns counters that r collects. They outlive a supervisor.
func NewCounters(r prometheus.Registerer) *Counters {
	counter := promauto.With(r)
	return &Counters{
		compacted: counter.NewCounter(prometheus.CounterOpts{Name: "petiole_leaf_tombstones_trimmed_total", Help: "Tombstones, and parts of deleted objects, that were deleted from SITE_DESIRED."}),
		restarts:  counter.NewCounter(prometheus.CounterOpts{Name: "petiole_leaf_server_restarts_total", Help: "Restarts of the embedded server: its store had stopped accepting messages, or it no longer tried to reach the hub."}),
		rebuilt:   counter.NewCounterVec(prometheus.CounterOpts{Name: "petiole_leaf_streams_rebuilt_total", Help: "Streams that were set aside because their files were damaged."}, []string{"stream"}),
	}
}
