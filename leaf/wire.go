package leaf

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/petiole-io/petiole/leaf/natsd"
)

var descWire = desc("link_wire_bytes_total", "Bytes of the link to the hub as a provider counts them: with TLS and the headers of IP and TCP.", "direction")

// wire adds up what the connections to the hub carry. It is safe for concurrent use.
type wire struct {
	read func() (natsd.Wire, bool)

	mu       sync.Mutex
	last     natsd.Wire
	up, down uint64
}

// newWire returns the bytes of the connections of a server, which may be nil.
func newWire(server *natsd.Server) *wire {
	return &wire{read: func() (natsd.Wire, bool) {
		if server == nil {
			return natsd.Wire{}, false
		}
		return natsd.WireOf(server)
	}}
}

// total returns the bytes so far, and whether those of the present connection could be read. Those since
// the last call are lost when a connection ends.
func (w *wire) total() (up, down uint64, known bool) {
	now, ok := w.read()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !ok {
		return w.up, w.down, false
	}
	if now.Conn != w.last.Conn {
		w.last = natsd.Wire{Conn: now.Conn}
	}
	w.up += now.Up - w.last.Up
	w.down += now.Down - w.last.Down
	w.last = now
	return w.up, w.down, true
}

// Describe implements prometheus.Collector.
func (w *wire) Describe(out chan<- *prometheus.Desc) { out <- descWire }

// Collect implements prometheus.Collector.
func (w *wire) Collect(out chan<- prometheus.Metric) {
	up, down, _ := w.total()
	out <- prometheus.MustNewConstMetric(descWire, prometheus.CounterValue, float64(up), "up")
	out <- prometheus.MustNewConstMetric(descWire, prometheus.CounterValue, float64(down), "down")
}
