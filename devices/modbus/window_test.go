package modbus

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/devices/modbus/modbustest"
	"github.com/petiole-io/petiole/internal/polltest"
)

// patience is the time that an unanswered request counts as in flight.
const patience = 120 * time.Millisecond

// distant is a slave behind a network that takes its time and answers in any order.
type distant struct {
	addr     string
	inFlight atomic.Int64
	most     atomic.Int64
	seen     atomic.Int64
}

func newDistant(t testing.TB, slave string, delay func(n int64) time.Duration, answer func(n int64, a []byte) [][]byte) *distant {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &distant{addr: ln.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			wg.Go(func() { d.serve(c, slave, delay, answer) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return d
}

func (d *distant) serve(c net.Conn, slave string, delay func(int64) time.Duration, answer func(int64, []byte) [][]byte) {
	defer c.Close()
	up, err := net.Dial("tcp", slave)
	if err != nil {
		return
	}
	defer up.Close()
	var mu sync.Mutex
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		req, err := readFrame(c)
		if err != nil {
			return
		}
		if n := d.inFlight.Add(1); n > d.most.Load() {
			d.most.Store(n)
		}
		if _, err := up.Write(req); err != nil {
			return
		}
		a, err := readFrame(up)
		if err != nil {
			return
		}
		n := d.seen.Add(1)
		wg.Go(func() {
			late := delay(n)
			time.Sleep(min(late, patience))
			d.inFlight.Add(-1) // whoever asked has given up by then
			time.Sleep(late - min(late, patience))
			mu.Lock()
			defer mu.Unlock()
			for _, b := range answer(n, a) {
				_, _ = c.Write(b)
			}
		})
	}
}

func plainly(_ int64, a []byte) [][]byte { return [][]byte{a} }

// With a window, answers come in any order, twice, late or never, and every value is
// still its own register's.
func TestWindowTellsAnswersApartByTheirNumber(t *testing.T) {
	t.Parallel()
	s := benchSlave(t, modbustest.Config{})
	odd := func(n int64, a []byte) [][]byte {
		switch {
		case n%17 == 5:
			return nil
		case n%11 == 3:
			return [][]byte{a, a}
		case n%13 == 4: // in two parts, with somebody else's before
			other := append([]byte(nil), a...)
			binary.BigEndian.PutUint16(other, binary.BigEndian.Uint16(a)-100)
			return [][]byte{other, a[:3], a[3:]}
		}
		return [][]byte{a}
	}
	d := newDistant(t, s.Addr(), func(n int64) time.Duration {
		if n%19 == 7 {
			return 400 * time.Millisecond // later than the timeout
		}
		return time.Duration(n*7%5) * time.Millisecond
	}, odd)
	r := newRig(t)
	var props []prop
	for i := range 24 {
		props = append(props, prop{name: fmt.Sprint(i * 150), typ: "INT", ro: true, visitor: visitor("InputRegister", i*150, []any{"dataType", "uint16"}), cycle: 10})
	}
	r.apply("d", d.addr, map[string]any{"requestWindow": 6, "timeout": 250, "minTimeout": 250, "retries": 3}, props...)
	polltest.Within(t, 3*time.Minute, "samples", func() bool { return r.sink.count("d", "3450") > 20 })
	r.stop()
	if most := d.most.Load(); most < 4 || most > 6 {
		t.Errorf("%d requests in flight", most)
	}
	good := 0
	for _, b := range r.sink.samples["d"] {
		for _, x := range b.Samples {
			if x.Quality != devices.Good {
				continue
			}
			good++
			var at uint16
			_, _ = fmt.Sscan(x.Property, &at)
			f, _ := x.Value.Float64()
			if age := s.Count() - modbustest.WordCount(1, at, uint16(f)); int64(age) > s.Requests() {
				t.Fatalf("register %d: %s is not its value", at, x.Value)
			}
		}
	}
	if good < 400 {
		t.Errorf("%d good samples", good)
	}
}

// Writes wait for what is in flight and are alone then.
func TestWindowKeepsWritesExclusive(t *testing.T) {
	s := newSlave(t)
	d := newDistant(t, s.addr, func(int64) time.Duration { return 2 * time.Millisecond }, plainly)
	r := newRig(t)
	for i := range 6 {
		r.apply(fmt.Sprint("d", i), d.addr, map[string]any{"window": 4}, prop{name: "bit", typ: "BOOLEAN", visitor: holding(0, "bit", i), cycle: 1, desired: "true"},
			prop{name: "x", typ: "INT", visitor: holding(1000 + i*200), cycle: 1})
	}
	for i := range 6 {
		polltest.Eventually(t, "ack", func() bool { return r.sink.ack(fmt.Sprint("d", i), "bit") == "applied" })
	}
	if got := s.get(1, codec.Holdings, 0); got != 0x3f {
		t.Fatalf("%b", got)
	}
	// A connection that breaks with requests in flight is made again.
	n := r.sink.count("d5", "x")
	polltest.Eventually(t, "polls go on", func() bool { return r.sink.count("d5", "x") > n+5 })
}

// BenchmarkTCPDistant reads 1,000 floats from a slave whose answers take 2 ms on the way.
func BenchmarkTCPDistant(b *testing.B) {
	for _, window := range []int{1, 8} {
		b.Run(fmt.Sprint("window=", window), func(b *testing.B) {
			s := benchSlave(b, modbustest.Config{Layout: modbustest.Floats})
			d := newDistant(b, s.Addr(), func(int64) time.Duration { return 2 * time.Millisecond }, plainly)
			floats(b, s, devices.Settings{"address": d.addr, "window": window}, 1000, 2)
		})
	}
}

// A device is read once, live, with what its registers hold and what it refuses.
func TestInspect(t *testing.T) {
	s := newSlave(t)
	s.set(1, codec.Holdings, 0, 0x4228, 0)
	s.set(1, codec.Holdings, 20, 0xff9c)
	s.set(1, codec.Coils, 3, 1)
	s.hole(codec.Holdings, 10, 12)
	def := devices.Definition{Config: devices.Settings{"ip": s.addr}, Points: []devices.Point{
		{Name: "f", Type: "FLOAT", Visitor: devices.Settings{"register": "HoldingRegister", "offset": 0}},
		{Name: "bad", Type: "INT", Visitor: devices.Settings{"register": "HoldingRegister", "offset": 10}},
		{Name: "no", Type: "INT", Visitor: devices.Settings{"register": "Nowhere"}},
		{Name: "i", Type: "INT", Visitor: devices.Settings{"register": "HoldingRegister", "offset": 20, "signed": true}},
		{Name: "c", Type: "BOOLEAN", Visitor: devices.Settings{"register": "CoilRegister", "offset": 3}},
	}}
	got, problems, err := Inspect(context.Background(), def, nil)
	if err != nil || len(problems) != 1 || len(got.Observations) != 4 {
		t.Fatalf("%+v %v %v", got, problems, err)
	}
	for i, want := range []string{"f 42 good [16936 0]", "bad  bad []", "i -100 good [65436]", "c true good [1]"} {
		o := got.Observations[i]
		if is := fmt.Sprint(o.Point, " ", o.Value, " ", o.Quality, " ", o.Registers); is != want {
			t.Errorf("%s, expected %s", is, want)
		}
	}
	if len(got.Refused) == 0 || got.Refused[0] != "holding:10" || len(got.Frames) == 0 {
		t.Errorf("%v %v", got.Refused, got.Frames)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	def.Config = devices.Settings{"ip": silent.Addr().String(), "timeout": 50}
	got, _, err = Inspect(context.Background(), def, nil)
	if err != nil || got.Observations[0].Quality != devices.Bad || got.Observations[0].Reason == "" {
		t.Fatalf("%+v %v", got, err)
	}
}
