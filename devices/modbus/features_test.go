package modbus

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/internal/polltest"
)

// functions counts the functions of answers, exceptions included.
func functions(p *proxy) *[256]atomic.Int64 {
	var n [256]atomic.Int64
	p.set(func(p *proxy) { p.fault = func(_ byte, a []byte, send func([]byte)) { n[a[7]].Add(1); send(a) } })
	return &n
}

// A unit that does not know function 22 is asked once; the whole register is written
// then, and from then on.
func TestMaskWriteIsTriedOnce(t *testing.T) {
	s := newSlave(t)
	s.set(1, codec.Holdings, 0, 0x00f0)
	p := newProxy(t, s.addr)
	n := functions(p)
	r := newRig(t)
	r.apply("d", p.addr, nil, prop{name: "a", typ: "BOOLEAN", visitor: holding(0, "bit", 0), desired: "true"}, prop{name: "b", typ: "BOOLEAN", visitor: holding(0, "bit", 4), desired: "false"},
		prop{name: "c", typ: "INT", visitor: holding(0, "dataType", "uint8", "packing", "high"), desired: "171"})
	for _, name := range []string{"a", "b", "c"} {
		polltest.Eventually(t, name, func() bool { return r.sink.ack("d", name) == "applied" })
	}
	if got := s.get(1, codec.Holdings, 0); got != 0xabe1 {
		t.Fatalf("%04x", got)
	}
	if n[22|0x80].Load() != 1 || n[6].Load() != 3 {
		t.Fatalf("function 22 was refused %d times, 6 used %d times", n[22|0x80].Load(), n[6].Load())
	}
}

// The settings for devices that know little.
func TestFunctionsFollowTheSettings(t *testing.T) {
	s := newSlave(t)
	s.set(1, codec.Inputs, 0, 0x4228, 0)
	p := newProxy(t, s.addr)
	n := functions(p)
	r := newRig(t)
	r.apply("six", p.addr, map[string]any{"writeFunction": "single"}, prop{name: "x", typ: "INT", visitor: holding(0, "dataType", "int32"), desired: "70000"},
		prop{name: "c", typ: "INT", visitor: visitor("CoilRegister", 0, []any{"limit", 3}), desired: "5"})
	polltest.Eventually(t, "acks", func() bool { return r.sink.ack("six", "x") == "applied" && r.sink.ack("six", "c") == "applied" })
	if n[6].Load() != 2 || n[16].Load() != 0 || n[5].Load() != 3 || n[15].Load() != 0 {
		t.Fatal(n[6].Load(), n[16].Load(), n[5].Load(), n[15].Load())
	}
	s.requests()
	r.apply("one", p.addr, map[string]any{"oneRegisterAtATime": true}, prop{name: "f", typ: "FLOAT", ro: true, visitor: visitor("InputRegister", 0, nil), cycle: 20},
		prop{name: "w", typ: "INT", visitor: holding(20, "dataType", "int32"), cycle: 20, desired: "70000"})
	polltest.Eventually(t, "value", func() bool { return r.sink.reported("one", "f") == "42" && r.sink.ack("one", "w") == "applied" })
	if q := r.sink.twin("one", "f").Reported.Metadata["quality"]; q != "uncertain" {
		t.Errorf("a value that was read in parts is %s", q)
	}
	for _, q := range s.requests() {
		if q.table != codec.Coils && q.count != 1 && q.unit == 1 && (q.start == 20 || q.table == codec.Inputs) {
			t.Fatal(q)
		}
	}
	r.apply("each", p.addr, map[string]any{"oneRequestPerProperty": true, "slaveID": 7}, prop{name: "a", typ: "INT", visitor: holding(0), cycle: 20}, prop{name: "b", typ: "INT", visitor: holding(1), cycle: 20})
	polltest.Eventually(t, "value", func() bool { return r.sink.count("each", "b") > 3 })
	if slices.ContainsFunc(s.requests(), func(q request) bool { return q.unit == 7 && q.count > 1 }) {
		t.Fatal("merged")
	}
}

// Ranges that the settings forbid are never asked for.
func TestForbiddenRangesAreNotTouched(t *testing.T) {
	s := newSlave(t)
	r := newRig(t)
	r.apply("d", s.addr, map[string]any{"forbidden": "4-5, input:9"}, prop{name: "a", typ: "INT", visitor: holding(3), cycle: 10}, prop{name: "b", typ: "INT", visitor: holding(6), cycle: 10})
	polltest.Eventually(t, "values", func() bool { return r.sink.count("d", "b") > 3 })
	for _, q := range s.requests() {
		if q.start < 6 && q.start+q.count > 4 {
			t.Fatal(q)
		}
	}
	for _, wrong := range []string{"4-3", "foo:1", "x", "70000", "1-2-3"} {
		if _, err := parseSettings(devices.Merge(map[string]any{"ip": "h", "forbidden": wrong})); err == nil {
			t.Errorf("%q is accepted", wrong)
		}
	}
}

// Frames are logged if the settings say so, and the last ones are part of a warning.
func TestFramesAreTraced(t *testing.T) {
	s := newSlave(t)
	p := newProxy(t, s.addr)
	p.set(func(p *proxy) { p.drop = func(unit byte) bool { return unit == 2 } })
	core, logged := observer.New(zap.DebugLevel)
	point := devices.Point{Name: "x", Type: "INT", Visitor: devices.Settings{"register": "HoldingRegister", "offset": 16}}
	def := devices.Definition{Config: devices.Settings{"ip": p.addr, "unitid": 2, "trace": true, "timeout": 20, "retries": 3}, Points: []devices.Point{point}}
	if _, _, err := Inspect(context.Background(), def, zap.New(core)); err != nil {
		t.Fatal(err)
	}
	sent := logged.FilterMessage("frame").FilterField(zap.Bool("sent", true)).All()
	if len(sent) != 3 || !strings.HasSuffix(sent[0].ContextMap()["bytes"].(string), "0006020300100001") {
		t.Fatalf("%+v", sent)
	}
	silent := logged.FilterMessage("unit does not respond").All()
	if len(silent) != 1 || len(silent[0].ContextMap()["frames"].([]any)) != 3 {
		t.Fatalf("%+v", silent)
	}
}

// The shortest timeout is a quarter of the timeout.
func TestDefaultOfMinTimeout(t *testing.T) {
	s, err := parseSettings(devices.Merge(map[string]any{"ip": "h"}))
	if err != nil || s.MinTimeout != 250*time.Millisecond {
		t.Fatal(s.MinTimeout, err)
	}
}

// queued is a context of a write that tells when the write waits for its result: its job is
// in the queue of the link then.
type queued struct {
	context.Context
	waits chan struct{}
	once  sync.Once
}

func newQueued(ctx context.Context) *queued { return &queued{Context: ctx, waits: make(chan struct{})} }

func (q *queued) Done() <-chan struct{} {
	q.once.Do(func() { close(q.waits) })
	return q.Context.Done()
}

// Commands go before desired values, and both before polls.
func TestCommandsGoFirst(t *testing.T) {
	s := newSlave(t)
	p := newProxy(t, s.addr)
	hold := make(chan struct{})
	p.set(func(p *proxy) { p.fault = func(_ byte, a []byte, send func([]byte)) { <-hold; send(a) } })
	d := New(nil)
	def := devices.Definition{Config: devices.Settings{"ip": p.addr, "timeout": 5000}}
	for i := range 4 {
		def.Points = append(def.Points, devices.Point{Name: string(rune('a' + i)), Type: "INT", Writable: true, Cycle: time.Millisecond, Visitor: devices.Settings{"register": "HoldingRegister", "offset": i * 1000}})
	}
	opened, _, err := d.Open(def)
	if err != nil {
		t.Fatal(err)
	}
	se := opened.(*session)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = se.Run(ctx, func(devices.Batch) {}) }()
	polltest.Eventually(t, "a request is under way", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.log) > 0 })
	done := make(chan error, 4)
	for i := range 3 {
		q := newQueued(ctx)
		go func() { _, err := se.Write(q, i, "5"); done <- err }()
		<-q.waits
	}
	q := newQueued(ctx)
	go func() { _, err := se.Command(q, 3, "9"); done <- err }()
	<-q.waits
	close(hold)
	for range 4 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	<-ended
	var order []int
	for _, q := range s.requests() {
		if q.write {
			order = append(order, q.start)
		}
	}
	if !slices.Equal(order, []int{3000, 0, 1000, 2000}) {
		t.Fatal(order)
	}
}
