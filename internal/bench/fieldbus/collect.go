package fieldbus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus"
)

// fastest is the cycle of a plan without an interval: no slave keeps up with it.
const fastest = time.Millisecond

// Collect reads a plan from in, runs it with Petiole's driver for the duration,
// and writes the result to out. The benchmark's own child process calls it.
func Collect(ctx context.Context, duration time.Duration, in io.Reader, out io.Writer) error {
	var p plan
	if err := json.NewDecoder(in).Decode(&p); err != nil {
		return fmt.Errorf("read plan: %w", err)
	}
	c := collector{}
	driver := modbus.New(nil)
	var sessions []devices.Session
	for i, t := range p.Targets {
		def := t.definition("d"+strconv.Itoa(i), max(p.Interval, fastest))
		if p.Writes > 0 && i == 0 {
			def.Points = append(def.Points, devices.Point{
				Name: "setpoint", Type: "INT", Writable: true, Cycle: time.Hour,
				Visitor: devices.Merge(map[string]any{"register": "HoldingRegister", "offset": int64(writable), "dataType": "uint16"}),
			})
		}
		s, problems, err := driver.Open(def)
		if err != nil {
			return fmt.Errorf("open %s: %w", t.Address, err)
		}
		for _, problem := range problems {
			return fmt.Errorf("open %s: %+v", t.Address, problem)
		}
		sessions = append(sessions, s)
	}
	ctx, cancel := context.WithTimeout(ctx, p.Settle+duration)
	defer cancel()
	var wg sync.WaitGroup
	for i, s := range sessions {
		take := c.target(p.Targets[i])
		wg.Go(func() {
			if err := s.Run(ctx, take); err != nil && ctx.Err() == nil {
				c.fail(err)
			}
		})
	}
	if p.Writes > 0 {
		wg.Go(func() { c.write(ctx, sessions[0], len(p.Targets[0].Points), p.Writes) })
	}
	select {
	case <-ctx.Done():
	case <-time.After(p.Settle):
	}
	start := time.Now()
	before, _, err := usage()
	if err != nil {
		return fmt.Errorf("read processor time: %w", err)
	}
	c.reset()
	wg.Wait()
	r := c.result
	r.Seconds = time.Since(start).Seconds()
	after, rss, err := usage()
	if err != nil {
		return fmt.Errorf("read processor time: %w", err)
	}
	r.CPU, r.RSSKiB = after-before, rss
	return json.NewEncoder(out).Encode(r)
}

// collector counts the delivered values.
type collector struct {
	mu     sync.Mutex
	result result
}

// reset sets all counts to zero.
func (c *collector) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.result = result{}
}

// target returns the sink of one target; a cycle is from one reading of its first point to the
// next.
func (c *collector) target(t target) func(devices.Batch) {
	var last time.Time
	return func(b devices.Batch) {
		var values, wrong, failed int64
		var cycle time.Duration
		for _, r := range b.Readings {
			if r.Point == 0 {
				now := time.Now()
				if !last.IsZero() {
					cycle = now.Sub(last)
				}
				last = now
			}
			switch {
			case r.Point >= len(t.Points): // the setpoint
			case r.Quality == devices.Bad:
				failed++
			default:
				values++
				if !t.Points[r.Point].expected(t.Unit, r.Value) {
					wrong++
				}
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.result.Values += values
		c.result.Wrong += wrong
		c.result.Errors += failed
		if cycle > 0 {
			c.result.Cycles = append(c.result.Cycles, cycle.Microseconds())
		}
	}
}

// write gives the setpoint a new value so many times a second and records how long each
// takes, read-back included.
func (c *collector) write(ctx context.Context, s devices.Session, point, perSecond int) {
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		start := time.Now()
		outcome, err := s.Write(ctx, point, strconv.Itoa(n))
		took := time.Since(start)
		if ctx.Err() != nil {
			return
		}
		if err == nil && !outcome.Written {
			err = errors.New("write: nothing was written")
		}
		if err != nil {
			c.fail(err)
			continue
		}
		c.mu.Lock()
		c.result.Writes = append(c.result.Writes, took.Microseconds())
		c.mu.Unlock()
	}
}

func (c *collector) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.result.Errors++
	c.result.Last = err.Error()
}
