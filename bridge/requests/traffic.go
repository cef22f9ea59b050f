package requests

import (
	"context"
	"time"

	"github.com/petiole-io/petiole/streams/traffic"
)

// Traffic returns the handler of traffic.Request. record takes over the report of a site.
func Traffic(record func(site string, r traffic.Report)) Handler {
	return Handler{
		Workers: 1, Backlog: 1024, PerSite: 2, MaxBytes: traffic.MaxBytes,
		Answer: func(_ context.Context, site string, data []byte) any {
			r, err := traffic.Decode(data)
			if err != nil {
				return traffic.Answer{Error: err.Error()}
			}
			record(site, r)
			return traffic.Answer{Time: time.Now()}
		},
		Refuse: func(reason string) any { return traffic.Answer{Error: reason} },
	}
}
