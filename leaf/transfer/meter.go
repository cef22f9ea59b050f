package transfer

import (
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// The kinds of messages that a Meter counts.
const (
	KindDesired    = "desired"
	KindReported   = "reported"
	KindTelemetry  = "telemetry"
	KindHeartbeats = "heartbeats"
	KindSessions   = "sessions"
)

// protocolBytes is what NATS adds to a message, its subjects and its headers, about.
const protocolBytes = 16

// Meter counts the bytes of the messages that cross the line to the hub, before compression and
// encryption. Use NewMeter. It is safe for concurrent use; a nil Meter counts nothing.
type Meter struct{ bytes *prometheus.CounterVec }

// NewMeter returns a meter whose counters r collects.
func NewMeter(r prometheus.Registerer) *Meter {
	return &Meter{promauto.With(r).NewCounterVec(prometheus.CounterOpts{
		Name: "petiole_leaf_link_bytes_total", Help: "Bytes of the messages that crossed the link to the hub, before compression and encryption.",
	}, []string{"kind", "direction"})}
}

// Up counts a message that was sent to the hub.
func (m *Meter) Up(kind string, msg *nats.Msg) { m.add(kind, "up", msg.Size()+protocolBytes) }

// Down counts a message that came from the hub.
func (m *Meter) Down(kind string, msg *nats.Msg) { m.add(kind, "down", msg.Size()+protocolBytes) }

func (m *Meter) add(kind, direction string, bytes int) {
	if m != nil {
		m.bytes.WithLabelValues(kind, direction).Add(float64(bytes))
	}
}
