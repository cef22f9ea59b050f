package bridge

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/streams"
)

// positionReader answers how much of a leaf's stream the hub has stored.
type positionReader struct{ hub *hub.Hub }

func (p *positionReader) handler() *handler {
	return &handler{
		workers: 4, backlog: 1024, perSite: 8, maxBytes: 4 << 10,
		answer: func(ctx context.Context, site string, data []byte) any {
			id, err := p.answer(ctx, site, data)
			if err != nil {
				return streams.PositionAnswer{Error: err.Error()}
			}
			return streams.PositionAnswer{ID: id}
		},
		refuse: func(reason string) any { return streams.PositionAnswer{Error: reason} },
	}
}

func (p *positionReader) answer(ctx context.Context, site string, data []byte) (string, error) {
	var q streams.PositionQuery
	if err := json.Unmarshal(data, &q); err != nil {
		return "", fmt.Errorf("read query: %w", err)
	}
	switch q.Stream {
	case streams.SiteReported:
		return p.last(ctx, streams.Reported, streams.ReportedFilter(site))
	case streams.SiteTelemetry:
		return p.last(ctx, streams.Telemetry, streams.TelemetryFilter(site))
	}
	return "", fmt.Errorf("stream %q is not forwarded by sites", q.Stream)
}

// last returns the message ID of the newest message that matches.
func (p *positionReader) last(ctx context.Context, stream, filter string) (string, error) {
	m, err := p.hub.LastMessage(ctx, stream, filter)
	if err != nil || m == nil {
		return "", err
	}
	return m.Header.Get(jetstream.MsgIDHeader), nil
}
