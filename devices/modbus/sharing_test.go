package modbus

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/devices/modbus/modbustest"
	"github.com/petiole-io/petiole/devices/modbus/wire"
	"github.com/petiole-io/petiole/internal/polltest"
)

// Pain 5: devices on one serial port share one queue, whatever their units: on a line
// that takes its time no request comes too early and no value is another's.
func TestPain05DevicesOnOnePortDoNotRace(t *testing.T) {
	t.Parallel()
	l := benchLine(t, 57600, nil)
	r := newRig(t)
	for i := range 6 {
		c := serialConfig(l.Path(), 1+i/2) // two devices of each unit
		c["baudRate"], c["parity"], c["timeout"], c["minTimeout"] = 57600, "even", 5000, 5000
		r.apply(string(rune('a'+i)), "127.0.0.1:1", c, prop{name: "x", typ: "INT", ro: true, visitor: visitor("InputRegister", 100*i, []any{"dataType", "uint16"}), cycle: 1},
			prop{name: "y", typ: "INT", ro: true, visitor: visitor("InputRegister", 100*i+1, []any{"dataType", "uint16"}), cycle: 1})
	}
	for i := range 6 {
		polltest.Eventually(t, "samples", func() bool { return r.sink.count(string(rune('a'+i)), "y") > 10 })
	}
	r.stop()
	if l.Early() > 0 {
		t.Errorf("%d requests came too early", l.Early())
	}
	for i := range 6 {
		for _, b := range r.sink.samples[string(rune('a'+i))] {
			count := map[uint16]bool{}
			for _, x := range b.Samples {
				f, _ := x.Value.Float64()
				at := uint16(100 * i)
				if x.Property == "y" {
					at++
				}
				count[modbustest.WordCount(byte(1+i/2), at, uint16(f))] = true
				if x.Quality != devices.Good {
					t.Fatalf("device %d: %s", i, x.Reason)
				}
			}
			if len(count) != 1 {
				t.Fatalf("device %d: a request gave values of several answers", i)
			}
		}
	}
}

// Pain 18: units of one period are not asked in step, but devices of one unit are,
// so that they share requests.
func TestPain18PollsAreSpread(t *testing.T) {
	const units, period = 32, 400 * time.Millisecond
	phases := make([]time.Duration, units)
	for i := range phases {
		s := settings{endpoint: wire.Endpoint{Mode: wire.TCP, Address: "10.0.0.1:502"}, unit: byte(i + 1)}
		phases[i] = pollKey{settings: s, period: period}.phase()
	}
	slices.Sort(phases)
	for i := 1; i < units; i++ {
		if gap := phases[i] - phases[i-1]; gap > period/4 {
			t.Errorf("nobody is asked for %s of %s", gap, period)
		}
	}
	s := newSlave(t)
	var mu sync.Mutex
	perSlot := map[int]int{}
	p := newProxy(t, s.addr)
	r := newRig(t)
	for i := range 16 {
		r.apply(fmt.Sprint("d", i), p.addr, map[string]any{"slaveID": i + 1}, prop{name: "x", typ: "INT", visitor: holding(0), cycle: period.Milliseconds()})
	}
	polltest.Eventually(t, "everybody was asked at once, at first", func() bool {
		for i := range 16 {
			if r.sink.count(fmt.Sprint("d", i), "x") == 0 {
				return false
			}
		}
		return true
	})
	begin := time.Now()
	p.set(func(p *proxy) {
		p.fault = func(_ byte, a []byte, send func([]byte)) {
			mu.Lock()
			perSlot[int(time.Since(begin)%period/(period/8))]++
			mu.Unlock()
			send(a)
		}
	})
	polltest.Eventually(t, "cycles", func() bool { return r.sink.count("d15", "x") > 4 })
	mu.Lock()
	defer mu.Unlock()
	if len(perSlot) < 4 {
		t.Errorf("16 units use %d of 8 parts of the period: %v", len(perSlot), perSlot)
	}
}

// Pain 21: a silent unit does not cost the others their connection.
func TestPain21SilentUnitKeepsTheConnection(t *testing.T) {
	t.Parallel()
	s := newSlave(t)
	p := newProxy(t, s.addr)
	p.set(func(p *proxy) { p.drop = func(unit byte) bool { return unit == 9 } })
	r := newRig(t)
	r.apply("a", p.addr, nil, one)
	r.apply("b", p.addr, map[string]any{"slaveID": 2}, one)
	polltest.Eventually(t, "the living", func() bool { return r.sink.count("a", "x") > 3 && r.sink.count("b", "x") > 3 })
	var many []prop // enough misses in a row to look like a dead connection
	for i := range 6 {
		many = append(many, prop{name: fmt.Sprint("x", i), typ: "INT", visitor: holding(i * 1000), cycle: 20})
	}
	r.apply("dead", p.addr, map[string]any{"slaveID": 9, "timeout": 50}, many...)
	polltest.Eventually(t, "dead is offline", func() bool { return r.sink.state("dead") == v1beta1.StateOffline })
	n := r.sink.count("a", "x")
	polltest.Eventually(t, "the living go on", func() bool { return r.sink.count("a", "x") > n+20 })
	if _, accepted := p.connections(); accepted != 1 {
		t.Fatalf("%d connections", accepted)
	}
}

// Devices of one unit share their requests: a register that both want is read once in
// every cycle, and delivered to both.
func TestDevicesOfOneUnitShareRequests(t *testing.T) {
	s := newSlave(t)
	for i := range 40 {
		s.set(1, codec.Holdings, i, uint16(i))
	}
	r := newRig(t)
	r.apply("a", s.addr, nil, prop{name: "p", typ: "INT", visitor: holding(0), cycle: 50}, prop{name: "q", typ: "INT", visitor: holding(10), cycle: 50})
	r.apply("b", s.addr, nil, prop{name: "p", typ: "INT", visitor: holding(10), cycle: 50}, prop{name: "q", typ: "INT", visitor: holding(30), cycle: 50})
	r.apply("slow", s.addr, nil, prop{name: "p", typ: "INT", visitor: holding(5), cycle: 600_000})
	for device, want := range map[string][2]string{"a": {"0", "10"}, "b": {"10", "30"}} {
		polltest.Eventually(t, device, func() bool { return r.sink.reported(device, "p") == want[0] && r.sink.reported(device, "q") == want[1] })
	}
	polltest.Eventually(t, "the slow one's first value comes at once", func() bool { return r.sink.reported("slow", "p") == "5" })
	n := r.sink.count("b", "q")
	s.requests()
	polltest.Eventually(t, "cycles", func() bool { return r.sink.count("b", "q") >= n+5 })
	log := s.requests()
	cycles := r.sink.count("b", "q") - n
	if len(log) > cycles+2 || slices.ContainsFunc(log, func(q request) bool { return q.start != 0 || q.count != 31 }) {
		t.Fatalf("%d requests for %d cycles: %v", len(log), cycles, log)
	}
	// One goes: the other's requests become smaller, and no cycle is lost.
	if err := r.host.DeleteDevice(context.Background(), "ns", "b", ""); err != nil {
		t.Fatal(err)
	}
	s.requests()
	n = r.sink.count("a", "q")
	polltest.Eventually(t, "the other goes on", func() bool { return r.sink.count("a", "q") >= n+3 })
	if log := s.requests(); log[len(log)-1].count != 11 {
		t.Fatal(log)
	}
}
