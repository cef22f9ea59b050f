package modbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/devices/modbus/link"
	"github.com/petiole-io/petiole/devices/modbus/wire"
)

// mostWritten is the number of registers that one request can write (MODBUS Application
// Protocol V1.1b3, 6.12).
const mostWritten = 123

// checkGroups returns the points without those whose group cannot be written with one request,
// and a problem for each of these.
func checkGroups(def devices.Definition, s *settings, points []point) (good []point, problems []devices.Problem) {
	groups := map[string][]point{}
	for _, p := range points {
		if name := def.Points[p.index].Group; name != "" {
			groups[name] = append(groups[name], p)
		}
	}
	if len(groups) == 0 {
		return points, nil
	}
	wrong := map[string]string{}
	for name, members := range groups {
		wrong[name] = groupProblem(def, s, members)
	}
	for _, p := range points {
		if name := def.Points[p.index].Group; wrong[name] != "" {
			problems = append(problems, devices.Problem{Property: p.name, Reason: devices.ReasonInvalidProperty, Message: fmt.Sprintf("writeGroup %q: %s", name, wrong[name])})
			continue
		}
		good = append(good, p)
	}
	return good, problems
}

// groupProblem returns why one request cannot write a group, empty if one can.
func groupProblem(def devices.Definition, s *settings, members []point) string {
	if s.SingleRegisters || s.Write == link.WriteSingle {
		return "the settings of the device have registers written one by one"
	}
	slices.SortFunc(members, func(a, b point) int { return cmp.Compare(a.Address, b.Address) })
	for i, p := range members {
		switch {
		case p.Table != codec.Holdings:
			return fmt.Sprintf("%s is a %s, one request writes holding registers", p.name, p.Table)
		case !def.Points[p.index].Writable:
			return p.name + " is read-only"
		case p.Partial() || p.Sparse():
			return p.name + " is a part of a register, or consists of registers that are not its own"
		case i > 0 && p.Address != members[i-1].End():
			return fmt.Sprintf("%s and %s are not neighbours", members[i-1].Range(), p.Range())
		case p.verify != members[0].verify:
			return "readBack differs among its properties"
		}
	}
	if n := members[len(members)-1].End() - members[0].Address; n > mostWritten {
		return fmt.Sprintf("it has %d registers, one request can write %d", n, mostWritten)
	}
	return ""
}

// WriteGroup writes the values of neighbouring registers with one request. Registers between
// them that have no value keep their contents.
func (s *session) WriteGroup(ctx context.Context, values []devices.PointValue, always bool) []devices.WriteResult {
	s.mu.Lock()
	l, deliver := s.link, s.deliver
	s.mu.Unlock()
	g := &groupWriter{settings: s.settings, values: values, always: always, results: make([]devices.WriteResult, len(values))}
	if l == nil {
		return g.all(link.ErrStopped)
	}
	for _, v := range values {
		i := slices.IndexFunc(s.points, func(p point) bool { return p.index == v.Point })
		if i < 0 {
			return g.all(&devices.Rejection{Reason: devices.ReasonNotValid, Message: "a property of the group has no valid settings"})
		}
		g.points = append(g.points, &s.points[i])
	}
	j := &link.Job{Ctx: ctx, Priority: link.Write, Due: time.Now(), Unit: s.settings.unit, Settings: &s.settings.Settings}
	at := time.Time{}
	j.Do = func(u *link.Unit) error {
		err := g.write(u)
		for i := range g.results {
			g.results[i].Outcome.Written, g.results[i].Outcome.Sent = len(u.Sent) > 0, u.SentText()
		}
		at = u.At
		return err
	}
	err := l.Do(j, true)
	if err != nil && !g.concluded {
		g.all(err)
	}
	if len(g.readings) == 0 && g.results[0].Outcome.Written {
		s.reportWrite(err, deliver)
	}
	if len(g.readings) > 0 {
		for i := range g.readings {
			g.readings[i].Time = at
		}
		deliver(devices.Batch{Readings: g.readings, Reachable: true, Time: at})
	}
	return g.results
}

// groupWriter writes the values of a group, within one job of its link.
type groupWriter struct {
	settings *settings
	points   []*point
	values   []devices.PointValue
	always   bool

	results   []devices.WriteResult
	concluded bool              // results have the errors
	readings  []devices.Reading // what was read last
}

// all makes an error the result of all values.
func (g *groupWriter) all(err error) []devices.WriteResult {
	for i := range g.results {
		g.results[i].Err = err
	}
	g.concluded = true
	return g.results
}

// write is writer.write for the group.
func (g *groupWriter) write(u *link.Unit) error {
	block := g.block()
	w := &writer{Unit: u, settings: g.settings, point: &point{Point: block}}
	verify := g.points[0].verify && !g.settings.broadcasts()
	before := make([]byte, 2*block.Count)
	if verify {
		data, err := w.readWithRetries()
		if err != nil {
			return g.fail(asRejection(err, "read before write (readBack: false writes without)"))
		}
		before = data
	} else if n := g.registers(); n != block.Count {
		return g.fail(&devices.Rejection{Reason: devices.ReasonNotValid, Message: fmt.Sprintf("%d of the %d registers from %s have no desired value, and they cannot be read", block.Count-n, block.Count, block.Range())})
	}
	want, err := g.encode(block, before)
	if err != nil {
		return err
	}
	if verify && !g.always && g.same(block, want, before) {
		g.after(block, before)
		return nil
	}
	if err := u.Err(); err != nil { // the caller has given up
		return g.fail(fmt.Errorf("%w before the write", err))
	}
	err = u.WriteRegisters(block.Address, want)
	unanswered := errors.Is(err, wire.ErrTimeout)
	if err != nil && (link.Exception(err) != 0 || (errors.Is(err, devices.ErrUnreachable) && !unanswered) || !verify) {
		return g.fail(asRejection(err, "write"))
	}
	if !verify {
		g.after(block, want)
		g.readings = nil
		return nil
	}
	for _, p := range g.points {
		w.point.readDelay = max(w.point.readDelay, p.readDelay)
	}
	now, failed := w.readBack()
	if failed != nil {
		return g.fail(fmt.Errorf("%w: read back: %w", devices.ErrUnreachable, failed))
	}
	g.after(block, now)
	if unanswered && !g.same(block, want, now) {
		return g.fail(asRejection(err, "write"))
	}
	g.compare(block, want, now)
	return nil
}

// fail makes an error the result of all values, and returns it.
func (g *groupWriter) fail(err error) error {
	g.all(err)
	return err
}

// block returns the range of the values.
func (g *groupWriter) block() codec.Point {
	first, end := g.points[0].Address, 0
	for _, p := range g.points {
		first, end = min(first, p.Address), max(end, p.End())
	}
	return codec.Point{Table: codec.Holdings, Address: first, Count: end - first}
}

// registers returns the number of registers that have a value.
func (g *groupWriter) registers() (n int) {
	for _, p := range g.points {
		n += p.Count
	}
	return n
}

// part returns the registers of a point in those of the block.
func part(block codec.Point, p *point, data []byte) []byte {
	at := 2 * (p.Address - block.Address)
	return data[at : at+2*p.Count]
}

// encode returns the contents of the block. If a value cannot be encoded the others are not
// written either.
func (g *groupWriter) encode(block codec.Point, before []byte) ([]byte, error) {
	want := slices.Clone(before)
	var failed error
	for i, p := range g.points {
		own := part(block, p, before)
		_, g.results[i].Outcome.Before = p.valueAndText(own)
		data, err := p.Encode(g.values[i].Value, own)
		if err != nil {
			g.results[i].Err, failed = err, err
			continue
		}
		copy(part(block, p, want), data)
	}
	if failed == nil {
		return want, nil
	}
	for i := range g.results {
		if g.results[i].Err == nil {
			g.results[i].Err = fmt.Errorf("%w: %w", devices.ErrNotWritten, failed)
		}
	}
	g.concluded = true
	return nil, failed
}

// same reports whether all points have the contents that they should have.
func (g *groupWriter) same(block codec.Point, want, is []byte) bool {
	return !slices.ContainsFunc(g.points, func(p *point) bool { return !p.Same(part(block, p, want), part(block, p, is)) })
}

// after records the values of the points in the contents of the block.
func (g *groupWriter) after(block codec.Point, data []byte) {
	g.readings = nil
	for i, p := range g.points {
		v, text := p.valueAndText(part(block, p, data))
		g.results[i].Outcome.After = text
		if v.Kind() != devices.None {
			g.readings = append(g.readings, devices.Reading{Point: p.index, Value: v, Quality: devices.Good})
		}
	}
}

// compare rejects the values that the device does not have after the write.
func (g *groupWriter) compare(block codec.Point, want, is []byte) {
	for i, p := range g.points {
		if !p.Same(part(block, p, want), part(block, p, is)) {
			g.results[i].Err = &devices.Rejection{Reason: devices.ReasonReadBack, Message: fmt.Sprintf("the device has %q after the write", g.results[i].Outcome.After)}
		}
	}
	g.concluded = true
}
