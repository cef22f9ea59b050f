package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus"
)

// watchDevices polls the devices as the leaf would, and writes a table of their values again and
// again until ctx ends. It returns the exit code.
func watchDevices(ctx context.Context, defs []devices.Definition, found []modbus.Finding, o deviceOptions, out, errs io.Writer) int {
	driver := modbus.New(nil)
	var watched []*watchedDevice
	var sessions sync.WaitGroup
	defer sessions.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	for _, def := range defs {
		session, problems, err := driver.Open(def)
		for _, p := range problems {
			found = append(found, modbus.Finding{Device: def.Device.String(), Problem: p, Warning: p.Warning()})
		}
		if err != nil {
			found = append(found, modbus.Finding{Device: def.Device.String(), Problem: devices.Problem{Reason: devices.ReasonInvalidProtocol, Message: err.Error()}})
			continue
		}
		w := &watchedDevice{def: def, state: "not reached yet", rows: make([]watchedPoint, len(def.Points))}
		watched = append(watched, w)
		sessions.Go(func() {
			if err := session.Run(ctx, w.observe); err != nil {
				w.setState("not operated: " + err.Error())
			}
		})
	}
	problem := printFindings(found, errs)
	if len(watched) == 0 {
		return 1
	}
	tick := time.NewTicker(o.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			if problem {
				return 1
			}
			return 0
		case now := <-tick.C:
			if err := draw(out, watched, now); err != nil {
				fmt.Fprintln(errs, "write readings:", err)
				return 1
			}
		}
	}
}

// watchedDevice has the last readings of a device. It is safe for concurrent use.
type watchedDevice struct {
	def devices.Definition

	mu    sync.Mutex
	state string
	rows  []watchedPoint // of the definition's points
}

// watchedPoint has the last good value of a point and the last reading.
type watchedPoint struct {
	value   devices.Value
	changed time.Time
	last    devices.Reading
}

func (w *watchedDevice) setState(s string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = s
}

// observe takes over the readings of a batch.
func (w *watchedDevice) observe(b devices.Batch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = "responds"
	if !b.Reachable {
		w.state = fmt.Sprintf("does not respond: %s: %s", b.Reason, b.Message)
	}
	for _, r := range b.Readings {
		p := &w.rows[r.Point]
		if r.Quality != devices.Bad {
			if r.Value != p.value {
				p.changed = r.Time
			}
			p.value = r.Value
		}
		p.last = r
	}
}

// draw writes the tables of all devices. On a terminal they replace the ones before.
func draw(out io.Writer, all []*watchedDevice, now time.Time) error {
	var b bytes.Buffer
	if isTerminal(out) {
		b.WriteString("\x1b[H\x1b[2J") // cursor to the first line, erase the screen
	}
	for _, w := range all {
		w.write(&b, now)
	}
	_, err := out.Write(b.Bytes())
	return err
}

func (w *watchedDevice) write(b *bytes.Buffer, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fmt.Fprintf(b, "DEVICE %s %s, %s\n", w.def.Device, w.state, now.Format(time.TimeOnly))
	t := table(b)
	fmt.Fprintln(t, "  NAME\tVALUE\tQUALITY\tAGE\tCHANGED\tREASON")
	for i, p := range w.rows {
		age, changed := "-", "-"
		if !p.last.Time.IsZero() {
			age = max(now.Sub(p.last.Time), 0).Round(100 * time.Millisecond).String()
		}
		if !p.changed.IsZero() {
			changed = p.changed.Format(time.TimeOnly)
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\t%s\n", w.def.Points[i].Name, formatValue(p.value), p.last.Quality, age, changed, p.last.Reason)
	}
	_ = t.Flush() // a buffer does not fail
}

// isTerminal reports whether out is a terminal.
func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
