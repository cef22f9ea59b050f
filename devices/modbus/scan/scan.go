package scan

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/internal/backoff"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/devices/modbus/link"
	"github.com/petiole-io/petiole/devices/modbus/wire"
)

// Options select what is scanned.
type Options struct {
	Units []byte
	// First and Last bound the addresses, as on the wire, that are probed in each table.
	First, Last int
	// Progress is called before each unit; nil: not called.
	Progress func(unit byte)
}

// Unit is what was found of a unit that replies.
type Unit struct {
	ID byte
	// Identification is what function 43/14 returns, nil if the unit does not know it.
	Identification map[string]string
	// Open has the readable ranges, without those of SunSpec models.
	Open []codec.Range
	// Values has the contents of the readable registers and bits.
	Values map[codec.Table]map[int]uint16
	// SunSpec has the models in their order.
	SunSpec []SunSpecModel
	// Incomplete says why not all of the unit was scanned; empty: all was.
	Incomplete string
}

const (
	// linkTries and linkPause bound how often a unit is tried whose request ends with a broken
	// connection. The pause is that of the slowest redial of a link.
	linkTries = 3
	linkPause = 5 * time.Second
)

// Run scans units one after another and returns those that reply. It returns what was found so
// far with an error if the connection fails or ctx ends. The link must be running and have no
// other user.
func Run(ctx context.Context, l *link.Link, s *link.Settings, o Options) ([]Unit, error) {
	var found []Unit
	for _, id := range o.Units {
		if o.Progress != nil {
			o.Progress(id)
		}
		p := prober{options: o, found: Unit{ID: id, Values: map[codec.Table]map[int]uint16{}}}
		err := run(ctx, l, s, &p)
		if p.replied {
			if err != nil {
				p.found.Incomplete = link.Reason(err)
			}
			found = append(found, p.found)
		}
		switch {
		case ctx.Err() != nil:
			return found, fmt.Errorf("scan of unit %d: %w", id, ctx.Err())
		case errors.Is(err, wire.ErrLink) && !p.replied:
			return found, fmt.Errorf("scan of unit %d: %w", id, err)
		}
	}
	return found, nil
}

// run scans one unit as one job of the link. It tries again while the unit was not reached
// because the connection broke.
func run(ctx context.Context, l *link.Link, s *link.Settings, p *prober) (err error) {
	for try := range linkTries {
		if try > 0 {
			backoff.Sleep(ctx, linkPause)
		}
		err = l.Do(&link.Job{Ctx: ctx, Priority: link.Poll, Due: time.Now(), Unit: p.found.ID, Settings: s, Do: func(u *link.Unit) error {
			p.Unit = u
			return p.run()
		}}, true)
		if !errors.Is(err, wire.ErrLink) || p.replied {
			return err
		}
	}
	return err
}

// prober scans one unit.
type prober struct {
	*link.Unit
	options  Options
	found    Unit
	replied  bool
	timeouts int // in a row
}

const (
	// blockSize is how many registers or bits are probed at once. Blocks are aligned, so that a
	// value of two registers at an even address is never read in halves first.
	blockSize = 64
	// maxTimeouts in a row end the scan of a unit: it may be in trouble because of the scan.
	maxTimeouts = 3
	busyTries   = 3
	busyPause   = 200 * time.Millisecond
)

var errUnansweredProbes = fmt.Errorf("%w: the unit stopped replying", wire.ErrTimeout)

func (p *prober) run() error {
	if err := p.detect(); err != nil || !p.replied {
		return err
	}
	if id, err := link.Identify(p.Unit); err == nil {
		p.found.Identification = id
	} else if errors.Is(err, wire.ErrLink) {
		return err
	}
	if err := p.findSunSpec(); err != nil {
		return err
	}
	for _, t := range []codec.Table{codec.Holdings, codec.Inputs, codec.Coils, codec.Discretes} {
		err := p.probeTable(t)
		if err != nil && link.Exception(err) != link.IllegalFunction {
			return err
		}
	}
	return nil
}

// detect finds out whether the unit replies, even if with an exception. A device may ignore a
// function that it does not know, so that a second one is tried.
func (p *prober) detect() error {
	for _, t := range []codec.Table{codec.Holdings, codec.Inputs} {
		_, err := p.Read(t, p.options.First, 1)
		switch {
		case err == nil, errors.Is(err, link.ErrBusy), link.Exception(err) != 0 && !errors.Is(err, devices.ErrUnreachable):
			p.replied = true
			return nil
		case errors.Is(err, wire.ErrLink):
			return err
		}
	}
	return nil
}

// probeTable finds the readable ranges of a table. It returns the exception if the unit does not
// have the function.
func (p *prober) probeTable(t codec.Table) error {
	for at := p.options.First; at <= p.options.Last; {
		end := min(at-at%blockSize+blockSize, p.options.Last+1)
		if err := p.probe(codec.Range{Table: t, Start: at, End: end}); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// probe reads a range, and halves of it if the unit refuses it.
func (p *prober) probe(r codec.Range) error {
	data, err := p.read(r)
	switch {
	case err == nil:
		p.record(r, data)
		return nil
	case errors.Is(err, wire.ErrLink), p.Err() != nil, errors.Is(err, errUnansweredProbes), link.Exception(err) == link.IllegalFunction:
		return err
	case !link.IllegalRange(err) || r.End-r.Start == 1:
		return nil // it cannot be read, or not now
	}
	half := r.Start + (r.End-r.Start+1)/2
	if err := p.probe(codec.Range{Table: r.Table, Start: r.Start, End: half}); err != nil {
		return err
	}
	return p.probe(codec.Range{Table: r.Table, Start: half, End: r.End})
}

// read reads a range. A busy unit is given time.
func (p *prober) read(r codec.Range) (data []byte, err error) {
	for range busyTries {
		if err := p.Err(); err != nil {
			return nil, fmt.Errorf("%w: %w", link.ErrStopped, err)
		}
		data, err = p.Read(r.Table, r.Start, r.End-r.Start)
		if !errors.Is(err, link.ErrBusy) {
			break
		}
		p.Sleep(busyPause)
	}
	if !errors.Is(err, wire.ErrTimeout) {
		p.timeouts = 0
		return data, err
	}
	if p.timeouts++; p.timeouts >= maxTimeouts {
		return nil, errUnansweredProbes
	}
	return nil, err
}

// record adds a range that was read.
func (p *prober) record(r codec.Range, data []byte) {
	values := p.found.Values[r.Table]
	if values == nil {
		values = map[int]uint16{}
		p.found.Values[r.Table] = values
	}
	for i := range r.End - r.Start {
		if r.Table.Bits() {
			values[r.Start+i] = uint16(data[i/8] >> (i % 8) & 1)
		} else {
			values[r.Start+i] = register(data, i)
		}
	}
	if n := len(p.found.Open); n > 0 && p.found.Open[n-1].Table == r.Table && p.found.Open[n-1].End == r.Start {
		p.found.Open[n-1].End = r.End
		return
	}
	p.found.Open = append(p.found.Open, r)
}
