package modbus

import (
	"slices"
	"time"

	"github.com/petiole-io/petiole/devices"
)

// Plan is what a device costs its link, for people to read.
type Plan struct {
	Endpoint string    `json:"endpoint"`
	Unit     int       `json:"unit"`
	Requests []Request `json:"requests"`
	// Utilisation is the part of the link's time that the device takes, 1 being all.
	Utilisation float64 `json:"utilisation"`
	// Cycle is what reading everything once takes.
	Cycle time.Duration `json:"cycle"`
}

// Request is one request of a plan.
type Request struct {
	Table    string        `json:"table"`
	Start    int           `json:"start"`
	Count    int           `json:"count"`
	Points   []string      `json:"points"`
	Period   time.Duration `json:"period"`
	Estimate time.Duration `json:"estimate"`
}

// Describe plans a device without touching it. Times are estimates, for a slave that
// takes 2 ms to answer; the driver learns holes only while it runs. The error and
// the problems are those of Open.
func Describe(def devices.Definition) (Plan, []devices.Problem, error) {
	s, points, problems, err := parse(def)
	if err != nil {
		return Plan{}, problems, err
	}
	out := Plan{Endpoint: s.endpoint.String(), Unit: int(s.unit)}
	c := lineCost(s.endpoint, turnaround)
	sess := &session{def: def, settings: s, points: points}
	for _, g := range sess.groups(time.Now()) {
		for _, b := range g.blocks {
			r := Request{Table: b.table.String(), Start: b.start, Count: b.count, Period: g.period, Estimate: c.of(b.table, b.count)}
			for _, p := range b.points {
				r.Points = append(r.Points, p.name)
			}
			out.Requests = append(out.Requests, r)
			out.Cycle += r.Estimate
			out.Utilisation += float64(r.Estimate) / float64(g.period)
		}
	}
	slices.SortStableFunc(out.Requests, func(a, b Request) int { return int(a.Period - b.Period) })
	return out, problems, nil
}
