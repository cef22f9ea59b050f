package forward

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Counters count what all forwarders of a site did. Use NewCounters.
type Counters struct {
	forwarded  *prometheus.CounterVec
	passedOver *prometheus.CounterVec
	refused    prometheus.Counter
	setAside   prometheus.Counter
	thinned    prometheus.Counter
	// eventsPassedOver counts messages: a part of a large Event is one.
	eventsPassedOver prometheus.Counter
}

// NewCounters returns counters that r collects.
func NewCounters(r prometheus.Registerer) *Counters {
	counter := promauto.With(r)
	return &Counters{
		forwarded:        counter.NewCounterVec(prometheus.CounterOpts{Name: "petiole_leaf_forwarded_total", Help: "Messages that the hub acknowledged."}, []string{"stream"}),
		passedOver:       counter.NewCounterVec(prometheus.CounterOpts{Name: "petiole_leaf_passed_over_total", Help: "Messages whose acknowledgement was lost and that the hub had already."}, []string{"stream"}),
		setAside:         counter.NewCounter(prometheus.CounterOpts{Name: "petiole_leaf_records_set_aside_total", Help: "Records in SITE_QUARANTINE because the hub or the line cannot take them."}),
		thinned:          counter.NewCounter(prometheus.CounterOpts{Name: "petiole_leaf_records_thinned_total", Help: "Samples that stay at the site because of its budget; a gap record takes their place."}),
		eventsPassedOver: counter.NewCounter(prometheus.CounterOpts{Name: "petiole_leaf_events_passed_over_total", Help: "Events that wait at the site because of its budget, while status is sent."}),
		refused:          counter.NewCounter(prometheus.CounterOpts{Name: "petiole_leaf_reports_refused_total", Help: "Reports that the hub refused because this site's stream is full, with each further try."}),
	}
}
