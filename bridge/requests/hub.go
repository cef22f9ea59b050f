package requests

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/streams"
)

// HubInfo returns the handler of streams.RequestHub.
func HubInfo(nc *nats.Conn) Handler {
	return Handler{
		Workers: 1, Backlog: 1024, PerSite: 2, MaxBytes: 1 << 10,
		Answer: func(context.Context, string, []byte) any {
			return streams.HubInfo{MaxPayload: nc.MaxPayload(), ServerVersion: nc.ConnectedServerVersion(), Time: time.Now()}
		},
		Refuse: func(reason string) any { return streams.HubInfo{Error: reason} },
	}
}
