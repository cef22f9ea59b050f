package modbus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus/link"
	"github.com/petiole-io/petiole/devices/modbus/wire"
)

// Observation is the result of reading one point once.
type Observation struct {
	Point   string          `json:"point"`
	Table   string          `json:"table"`
	Address int             `json:"address"` // as on the wire
	Value   devices.Value   `json:"value"`
	Quality devices.Quality `json:"quality"`
	Reason  string          `json:"reason,omitempty"`
	// Registers are the point's registers; of coils and discrete inputs, its bits.
	Registers []uint16 `json:"registers"`
	// Time is the midpoint of the transaction, After the time since the inspection began.
	Time  time.Time     `json:"time"`
	After time.Duration `json:"afterNs"`
}

// Inspection is the result of reading a device once.
type Inspection struct {
	Endpoint     string        `json:"endpoint"`
	Unit         int           `json:"unit"`
	Observations []Observation `json:"observations"`
	// Refused are the ranges that the device refused, formatted as the setting forbidden.
	Refused []string `json:"refused,omitempty"`
	// Frames are the last frames that were sent and received.
	Frames []string `json:"frames,omitempty"`
}

// Inspect reads every point of a device once, as the driver would, over a link of its own.
// It returns an error if the definition is invalid; a device that does not reply shows in
// the observations. Problems are those of Open.
func Inspect(ctx context.Context, def devices.Definition, log *zap.Logger) (Inspection, []devices.Problem, error) {
	s, points, problems, err := parse(def)
	if err != nil {
		return Inspection{}, problems, err
	}
	out := Inspection{Endpoint: s.endpoint.String(), Unit: int(s.unit)}
	if s.broadcasts() {
		return out, problems, errors.New("unit 0 is the broadcast, to which no unit replies: it cannot be read")
	}
	if log == nil {
		log = zap.NewNop()
	}
	l := link.New(s.endpoint, &wire.Unanswered{}, func() int { return 1 }, log)
	lctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { l.Run(lctx) })
	out.Observations, out.Refused = inspect(ctx, l, s, points, log)
	stop()
	wg.Wait()
	for _, f := range l.Frames() {
		out.Frames = append(out.Frames, f.String())
	}
	return out, problems, nil
}

func inspect(ctx context.Context, l *link.Link, s *settings, points []point, log *zap.Logger) ([]Observation, []string) {
	seen := make([]Observation, len(points))
	self := &subscriber{ctx: ctx, mail: newMailbox()}
	p := newPoller(pollKey{settings: s.polling(), period: time.Hour}, l, log)
	all := make([]polled, len(points))
	for i := range points {
		seen[i] = Observation{Point: points[i].name, Table: points[i].Table.String(), Address: points[i].Address, Quality: devices.Bad, Reason: link.Reason(link.ErrStopped)}
		pt := points[i]
		pt.index = i // from here on the index of its observation
		all[i] = polled{&pt, self}
	}
	p.setPoints(all)
	p.due = time.Now()
	begin := time.Now()
	p.cycle(ctx)
	for _, a := range self.mail.drain() {
		record(seen, s, a, begin)
	}
	var refused []string
	for _, h := range p.group.Refused() {
		refused = append(refused, h.String())
	}
	return seen, refused
}

// record copies the result of a request into the observations of its points.
func record(seen []Observation, s *settings, a readResult, begin time.Time) {
	b := (&session{settings: s}).batch(a)
	for i, r := range b.Readings {
		p, o := a.points[i], &seen[r.Point]
		o.Value, o.Quality, o.Reason, o.Time, o.After = r.Value, r.Quality, r.Reason, r.Time, a.at.Sub(begin)
		if r.Reason != "" && b.Message != "" {
			o.Reason = fmt.Sprintf("%s: %s", r.Reason, b.Message)
		}
		if a.err == nil {
			o.Registers = p.registers(a.data, a.start)
		}
	}
}
