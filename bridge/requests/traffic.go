package requests

import (
	"context"
	"time"

	"github.com/petiole-io/petiole/streams/traffic"
)

// Traffic returns the handler of traffic.Request. record takes over the report of a site, budget returns
// what its link may carry on one day, 0 for any number of bytes.
func Traffic(record func(site string, r traffic.Report), budget func(site string) int64) Handler {
	return Handler{
		Workers: 1, Backlog: 1024, PerSite: 2, MaxBytes: traffic.MaxBytes,
		Answer: func(_ context.Context, site string, data []byte) any {
			r, err := traffic.Decode(data)
			if err != nil {
				return traffic.Answer{Error: err.Error()}
			}
			record(site, r)
			return traffic.Answer{Time: time.Now(), Budget: budget(site)}
		},
		Refuse: func(reason string) any { return traffic.Answer{Error: reason} },
	}
}
