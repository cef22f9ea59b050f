package requests

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/table"
)

// Hub reads the newest message of a stream that matches, nil if there is none.
type Hub interface {
	LastMessage(ctx context.Context, stream, filter string) (*table.Message, error)
	// LastKnown is streams.LastKnown.
	LastKnown(ctx context.Context, stream, filter string, known []int64) (string, error)
}

// Positions returns the handler of streams.RequestPosition: how much of a leaf's stream the
// hub has stored.
func Positions(h Hub) Handler {
	return Handler{
		Workers: 4, Backlog: 1024, PerSite: 8, MaxBytes: 4 << 10,
		Answer: func(ctx context.Context, site string, data []byte) any {
			answer, err := position(ctx, h, site, data)
			if err != nil {
				return streams.PositionAnswer{Error: err.Error()}
			}
			return answer
		},
		Refuse: func(reason string) any { return streams.PositionAnswer{Error: reason} },
	}
}

// position returns the message ID of the newest message that the hub has of the site's stream. Of
// records it also returns that of the newest which the leaf knows, if it does not know that one.
func position(ctx context.Context, h Hub, site string, data []byte) (a streams.PositionAnswer, err error) {
	var q streams.PositionQuery
	if err := json.Unmarshal(data, &q); err != nil {
		return a, fmt.Errorf("read query: %w", err)
	}
	var stream, filter string
	switch q.Stream {
	case streams.SiteReported:
		stream, filter = streams.Reported(site), streams.ReportedFilter(site)
	case streams.SiteTelemetry:
		stream, filter = streams.Telemetry(site), streams.TelemetryFilter(site)
	default:
		return a, fmt.Errorf("stream %q is not forwarded by sites", q.Stream)
	}
	m, err := h.LastMessage(ctx, stream, filter)
	if err != nil || m == nil {
		return a, err
	}
	a.ID = m.Header.Get(jetstream.MsgIDHeader)
	if q.Stream == streams.SiteTelemetry && !q.IncarnationKnown(a.ID) {
		a.Known, err = h.LastKnown(ctx, stream, filter, q.Known)
	}
	return a, err
}
