package requests

import (
	"context"
	"encoding/json"

	"github.com/petiole-io/petiole/streams/urgent"
)

// Desired finds what is urgent in the backlog of a site.
type Desired interface {
	Urgent(ctx context.Context, site string, q urgent.Query) (urgent.Answer, error)
}

// Urgent returns the handler of urgent.Request.
func Urgent(d Desired) Handler {
	return Handler{
		Workers: 4, Backlog: 1024, PerSite: 2, MaxBytes: 1 << 10,
		Answer: func(ctx context.Context, site string, data []byte) any {
			var q urgent.Query
			err := json.Unmarshal(data, &q)
			var a urgent.Answer
			if err == nil {
				a, err = d.Urgent(ctx, site, q)
			}
			if err != nil {
				return urgent.Answer{Error: err.Error()}
			}
			return a
		},
		Refuse: func(reason string) any { return urgent.Answer{Error: reason} },
	}
}
