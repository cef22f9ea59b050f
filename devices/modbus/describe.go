package modbus

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/devices/modbus/plan"
	"github.com/petiole-io/petiole/devices/modbus/wire"
)

// Plan lists the requests that devices cause on one link, for people to read. Times are
// estimates, for units that take 2 ms to reply.
type Plan struct {
	Endpoint string    `json:"endpoint"`
	Requests []Request `json:"requests"`
	Classes  []Class   `json:"classes"`
	// Holes are the ranges that the settings forbid. The driver finds others while it runs.
	Holes []string `json:"holes,omitempty"`
	// Utilisation is the fraction of the link's time that polling takes. Above 1 the link
	// cannot keep the periods.
	Utilisation float64 `json:"utilisation"`
	// Cycle is the time to read everything once.
	Cycle time.Duration `json:"cycleNs"`
}

// Request is one request of a plan.
type Request struct {
	Unit     int    `json:"unit"`
	Function int    `json:"function"`
	Table    string `json:"table"`
	Start    int    `json:"start"` // as on the wire
	Count    int    `json:"count"`
	// Points are <namespace>/<device>.<property>.
	Points   []string      `json:"points"`
	Period   time.Duration `json:"periodNs"`
	Estimate time.Duration `json:"estimateNs"`
}

// Class sums up the requests of one period.
type Class struct {
	Period      time.Duration `json:"periodNs"`
	Requests    int           `json:"requests"`
	Points      int           `json:"points"`
	Cycle       time.Duration `json:"cycleNs"`
	Utilisation float64       `json:"utilisation"`
}

// Finding is an error or a warning about a device of a plan.
type Finding struct {
	Device string `json:"device"`
	devices.Problem
	// Warning reports that the device works nevertheless.
	Warning bool `json:"warning,omitempty"`
}

// Describe plans the requests to devices as the driver would, without sending any: devices
// with the same endpoint share a link, devices with the same unit share requests.
func Describe(defs ...devices.Definition) ([]Plan, []Finding) {
	var found []Finding
	pollers := map[pollKey][]*point{}
	for _, def := range defs {
		name := def.Device.String()
		s, points, problems, err := parse(def)
		for _, p := range problems {
			found = append(found, Finding{Device: name, Problem: p})
		}
		if err != nil {
			found = append(found, Finding{Device: name, Problem: devices.Problem{Reason: devices.ReasonInvalidProtocol, Message: err.Error()}})
			continue
		}
		for _, p := range warnings(def, s, points) {
			found = append(found, Finding{Device: name, Warning: true, Problem: p})
		}
		for period, of := range (&session{settings: s, points: points}).periods() {
			k := pollKey{settings: s.polling(), period: period}
			for _, p := range of {
				p.name = name + "." + p.name
				pollers[k] = append(pollers[k], p)
			}
		}
	}
	return plans(pollers), found
}

func plans(pollers map[pollKey][]*point) []Plan {
	links := map[wire.Endpoint]*Plan{}
	for _, k := range slices.SortedFunc(maps.Keys(pollers), comparePollers) {
		e := k.settings.endpoint
		if links[e] == nil {
			links[e] = &Plan{Endpoint: e.String()}
		}
		links[e].add(k, pollers[k])
	}
	out := make([]Plan, 0, len(links))
	for _, p := range links {
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b Plan) int { return cmp.Compare(a.Endpoint, b.Endpoint) })
	return out
}

func comparePollers(a, b pollKey) int {
	return cmp.Or(cmp.Compare(a.period, b.period), cmp.Compare(a.settings.unit, b.settings.unit),
		cmp.Compare(a.settings.Timeout, b.settings.Timeout), cmp.Compare(a.settings.maxRegisters, b.settings.maxRegisters))
}

// add adds the requests of a poller to the plan of its link.
func (p *Plan) add(k pollKey, points []*point) {
	g := newGroup(&k.settings)
	ranges := make([]codec.Range, len(points))
	for i := range points {
		ranges[i] = points[i].Range()
	}
	g.SetPoints(ranges)
	g.Refresh(time.Now())
	if n := len(p.Classes); n == 0 || p.Classes[n-1].Period != k.period {
		p.Classes = append(p.Classes, Class{Period: k.period})
	}
	c := &p.Classes[len(p.Classes)-1]
	for _, h := range g.Forbidden() {
		if !slices.Contains(p.Holes, h.String()) {
			p.Holes = append(p.Holes, h.String())
		}
	}
	for _, b := range g.Blocks() {
		// Requests in flight at the same time share their time.
		took := requestCost(g, b, &k.settings) / time.Duration(k.settings.Window)
		r := Request{Unit: int(k.settings.unit), Function: int(b.Table.Function()), Table: b.Table.String(), Start: b.Start, Count: b.Count, Period: k.period, Estimate: took}
		for _, x := range b.Points {
			r.Points = append(r.Points, points[x.Index].name)
		}
		p.Requests = append(p.Requests, r)
		c.Requests++
		c.Points += len(b.Points)
		c.Cycle += took
		c.Utilisation += float64(took) / float64(k.period)
		p.Cycle += took
		p.Utilisation += float64(took) / float64(k.period)
	}
}

// requestCost estimates how long reading a block takes, with the pauses of the settings.
func requestCost(g *plan.Group, b plan.Block, s *settings) time.Duration {
	if s.SingleRegisters && !b.Table.Bits() {
		return time.Duration(b.Count) * (g.Estimate(b.Table, 1) + s.Between)
	}
	return g.Estimate(b.Table, b.Count) + s.Between
}
