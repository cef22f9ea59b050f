package transfer

import (
	"context"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
)

// The kinds of messages that a Meter counts.
const (
	KindDesired    = "desired"
	KindReported   = "reported"
	KindTelemetry  = "telemetry"
	KindHeartbeats = "heartbeats"
	// KindRequests are questions of the leaf to the bridge: positions, inventories, tokens.
	KindRequests = "requests"
	// KindCommands are commands to devices and their results.
	KindCommands = "commands"
	// KindSessions are sessions of the kubelet API: logs, exec, port-forward.
	KindSessions = "sessions"
)

// Kinds are all of them.
var Kinds = []string{KindDesired, KindReported, KindTelemetry, KindHeartbeats, KindRequests, KindCommands, KindSessions}

// protocolBytes is what NATS adds to a message, its subjects and its headers, about.
const protocolBytes = 16

// subjectBytes is the size of the subject of a frame of a session, about.
const subjectBytes = 64

// Bytes is a number of bytes by direction.
type Bytes struct{ Up, Down uint64 }

// Meter counts the bytes of the messages that cross the line to the hub, before compression and
// encryption. Use NewMeter. It is safe for concurrent use; a nil Meter counts nothing.
type Meter struct {
	counts map[string]*count
	// sessions is the connection that has nothing but sessions of the kubelet API, or nil.
	sessions atomic.Pointer[nats.Conn]
}

type count struct{ up, down atomic.Uint64 }

var descBytes = prometheus.NewDesc("petiole_leaf_link_bytes_total", "Bytes of the messages that crossed the link to the hub, before compression and encryption.", []string{"kind", "direction"}, nil)

// NewMeter returns a meter whose counters r collects.
func NewMeter(r prometheus.Registerer) *Meter {
	m := &Meter{counts: map[string]*count{}}
	for _, kind := range Kinds {
		m.counts[kind] = &count{}
	}
	r.MustRegister(m)
	return m
}

// Up counts a message that was sent to the hub.
func (m *Meter) Up(kind string, msg *nats.Msg) {
	if m != nil {
		m.counts[kind].up.Add(uint64(msg.Size() + protocolBytes))
	}
}

// Down counts a message that came from the hub.
func (m *Meter) Down(kind string, msg *nats.Msg) {
	if m != nil {
		m.counts[kind].down.Add(uint64(msg.Size() + protocolBytes))
	}
}

// Sessions has what a connection carries counted as sessions of the kubelet API.
func (m *Meter) Sessions(nc *nats.Conn) { m.sessions.Store(nc) }

// Totals returns what was counted so far, by kind.
func (m *Meter) Totals() map[string]Bytes {
	out := map[string]Bytes{}
	for kind, c := range m.counts {
		out[kind] = Bytes{Up: c.up.Load(), Down: c.down.Load()}
	}
	if nc := m.sessions.Load(); nc != nil {
		s := nc.Stats()
		out[KindSessions] = Bytes{Up: s.OutBytes + s.OutMsgs*(subjectBytes+protocolBytes), Down: s.InBytes + s.InMsgs*(subjectBytes+protocolBytes)}
	}
	return out
}

// Describe implements prometheus.Collector.
func (m *Meter) Describe(out chan<- *prometheus.Desc) { out <- descBytes }

// Collect implements prometheus.Collector.
func (m *Meter) Collect(out chan<- prometheus.Metric) {
	for kind, b := range m.Totals() {
		out <- prometheus.MustNewConstMetric(descBytes, prometheus.CounterValue, float64(b.Up), kind, "up")
		out <- prometheus.MustNewConstMetric(descBytes, prometheus.CounterValue, float64(b.Down), kind, "down")
	}
}

// Requester sends requests to the bridge and counts them and their answers.
type Requester struct {
	Conn  *nats.Conn
	Meter *Meter
}

// RequestWithContext is that of nats.Conn.
func (r Requester) RequestWithContext(ctx context.Context, subject string, data []byte) (*nats.Msg, error) {
	reply, err := r.Conn.RequestWithContext(ctx, subject, data)
	if err != nil {
		return nil, err
	}
	r.Meter.Up(KindRequests, &nats.Msg{Subject: subject, Data: data})
	r.Meter.Down(KindRequests, reply)
	return reply, nil
}
