package modbus

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	server "github.com/simonvetter/modbus"
	"pgregory.net/rapid"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/devices/modbus/modbustest"
	"github.com/petiole-io/petiole/internal/polltest"
)

// pains are what users of other drivers have suffered from.
var pains = map[int]string{
	1: "one dead slave stalls or blanks the whole bus", 2: "a late reply shifts all later answers", 3: "broken pipe, never reconnects",
	4: "a gateway allows one connection", 5: "two devices on one serial port race", 6: "writes are not serialised with polls",
	7: "writes starve behind polls", 8: "a batched read over a hole gives nothing", 9: "fewer registers per request than the protocol allows",
	10: "a negative scaled value reads as 65 5xx", 11: "byte and word order", 12: "addresses off by one", 13: "a pause after connecting",
	14: "a pause between requests", 15: "strings in one byte of registers, coils from 0, vendor floats", 16: "wrong function code, extra bytes",
	17: "a broadcast waits for an answer", 18: "all devices are polled in phase", 19: "a change recreates devices", 20: "back-off too long",
	21: "a silent unit closes the connection of others", 22: "a write acknowledged but not applied", 23: "an error recorded as 0",
	24: "ttys renumbered", 25: "RTU over TCP in pieces, with noise", 26: "only function 16", 27: "a panic on bad settings",
	28: "unit 0, 255 and 1 on TCP", 29: "half-open connections", 30: "local echo",
}

// Every pain has a test that has its number.
func TestEveryPainHasATest(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	pure, err := filepath.Glob("codec/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, f := range append(files, pure...) {
		parsed, err := parser.ParseFile(token.NewFileSet(), f, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && strings.HasPrefix(fn.Name.Name, "TestPain") {
				found[fn.Name.Name[len("TestPain"):][:2]] = true
			}
		}
	}
	for n := 1; n <= 30; n++ {
		if pains[n] == "" || !found[fmt.Sprintf("%02d", n)] {
			t.Errorf("pain %d (%s) has no test", n, pains[n])
		}
	}
}

// Pain 6: what belongs to one write is not interrupted by polls or by other writes,
// so that bits of one register which several devices write are not lost.
func TestPain06WritesAreSerialisedWithPolls(t *testing.T) {
	for _, mask := range []string{"off", "auto"} {
		t.Run("maskWrite "+mask, func(t *testing.T) {
			s := newSlave(t)
			r := newRig(t)
			for i := range 8 {
				r.apply(string(rune('a'+i)), s.addr, map[string]any{"maskWrite": mask}, prop{name: "bit", typ: "BOOLEAN", visitor: holding(0, "bit", i), cycle: 1, desired: "true"},
					prop{name: "x", typ: "INT", ro: true, visitor: visitor("InputRegister", i, nil), cycle: 1})
			}
			for i := range 8 {
				polltest.Eventually(t, "ack", func() bool { return r.sink.ack(string(rune('a'+i)), "bit") == "applied" })
			}
			r.stop()
			if got := s.get(1, codec.Holdings, 0); got != 0xff {
				t.Fatalf("register holds %08b", got)
			}
			log := s.requests()
			for i, q := range log {
				if q.write && (i == 0 || i+1 == len(log) || log[i-1].table != codec.Holdings || log[i+1].table != codec.Holdings || log[i+1].write) {
					t.Fatalf("write %d of %v is interrupted", i, log)
				}
			}
		})
	}
}

// Pain 17: no unit replies to a broadcast, and the driver does not wait for a reply.
func TestPain17BroadcastWaitsForNoAnswer(t *testing.T) {
	s := benchSlave(t, modbustest.Config{})
	var written atomic.Int64
	s.OnWrite(func(unit byte, address, value uint16) {
		if unit == 0 && address == 5 && value == 1234 {
			written.Add(1)
		}
	})
	l, err := modbustest.NewLine(modbustest.LineConfig{Baud: 115200, Slave: s.Addr()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := newRig(t)
	c := serialConfig(l.Path(), 1)
	c["timeout"], c["parity"] = 5000, "even"
	r.apply("one", "127.0.0.1:1", c, prop{name: "x", typ: "INT", ro: true, visitor: holding(0), cycle: 20})
	polltest.Eventually(t, "polls", func() bool { return r.sink.count("one", "x") > 3 })
	all := serialConfig(l.Path(), 0)
	all["timeout"], all["parity"] = 5000, "even"
	r.apply("all", "127.0.0.1:1", all, prop{name: "set", typ: "INT", visitor: holding(5), desired: "1234"},
		prop{name: "readonly", typ: "INT", ro: true, visitor: holding(6)}, prop{name: "bit", typ: "BOOLEAN", visitor: holding(7, "bit", 3), desired: "true"})
	polltest.Eventually(t, "ack", func() bool { return r.sink.ack("all", "set") == "applied" && r.sink.ack("all", "bit") == "rejected" })
	if written.Load() != 1 {
		t.Errorf("%d broadcasts", written.Load())
	}
	polltest.Eventually(t, "quality uncertain", func() bool {
		tw := r.sink.twin("all", "set").Reported
		return tw != nil && tw.Value == "1234" && tw.Metadata["quality"] == "uncertain"
	})
	n := r.sink.count("one", "x")
	polltest.Eventually(t, "polls go on", func() bool { return r.sink.count("one", "x") > n+3 })
	if list, _ := r.sink.status("all").Extensions.Data["problems"].([]any); len(list) != 1 {
		t.Errorf("problems: %v", list)
	}
}

// Pain 20, too: the bound is that of the settings. Without them the probes would be 5 s apart
// after the first ones.
func TestPain20BackOffFollowsTheSettings(t *testing.T) {
	t.Parallel()
	s := newSlave(t)
	p := newProxy(t, s.addr)
	var probes atomic.Int64
	p.set(func(p *proxy) {
		p.drop = func(unit byte) bool {
			if unit == 9 {
				probes.Add(1)
			}
			return unit == 9
		}
	})
	r := newRig(t)
	r.apply("up", p.addr, nil, one)
	r.apply("dead", p.addr, map[string]any{"slaveID": 9, "timeout": 50, "maxBackoff": 100, "retries": 0}, one)
	polltest.Eventually(t, "silent", func() bool {
		tw := r.sink.twin("dead", "x").Reported
		return tw != nil && tw.Metadata["reason"] == "UnitSilent"
	})
	begin := probes.Load()
	polltest.Eventually(t, "probes", func() bool { return probes.Load() > begin+20 })
}

// Pain 27: panic on bad configuration, overlap, address 65535.
func TestPain27AnyConfigurationIsParsedOrRefused(t *testing.T) {
	keys := []string{"register", "Register", "offset", "limit", "scale", "dataType", "bit", "byteOrder", "isSwap", "packing", "valueOffset", "readBack"}
	values := []any{"", "HoldingRegister", "CoilRegister", "InputRegister", -1, 0, 1, 3, 4, 64, 65535, 65536, "x", "0.1", 1e300, true, nil, []any{1}, map[string]any{}, "float", "bytes", "string", "bcd", "uint8", "high", "CDABGHEF", "AABBCCDD"}
	typs := []v1beta1.PropertyType{"INT", "FLOAT", "DOUBLE", "STRING", "BOOLEAN", "BYTES"}
	rapid.Check(t, func(t *rapid.T) {
		visitor := rapid.MapOf(rapid.SampledFrom(keys), rapid.SampledFrom(values)).Draw(t, "visitor")
		p, err := parsePoint(0, devices.Point{Type: rapid.SampledFrom(typs).Draw(t, "type"), Visitor: devices.Merge(visitor)}, settings{maxRegisters: 125, maxBits: 2000})
		if err != nil {
			return
		}
		data := rapid.SliceOfN(rapid.Byte(), 2*p.Count, 2*p.Count).Draw(t, "data")
		if v, err := p.Decode(data, p.Address); err == nil {
			_, _ = p.Encode(v.String(), data)
		}
	})
}

// The same for what register maps need: whatever decodes is written as it was, and nothing
// panics.
func TestPain27AnyRegisterMapIsParsedOrRefused(t *testing.T) {
	settingValues := map[string][]any{
		"offset":        {0, 1, 65535, 40001, nil},
		"limit":         {nil, 0, 1, 2, 3, 4, 6},
		"dataType":      {nil, "int16", "uint16", "uint32", "uint48", "int64", "float32", "bcd", "string", "bytes", "bool", "unix", "unixMilli", "iec870", "datetime3", "datetime6", "t5", "mod10k"},
		"registers":     {nil, nil, nil, "0", "1,0", "0,2", "3,1,2,0", []any{}, []any{1, "x"}, 7, true},
		"scaleRegister": {nil, nil, 0, 2, 9, 65536, "x", []any{1}},
		"checkRegister": {nil, nil, 0, 3, 65536, "x"},
		"checkValue":    {nil, nil, 7, "0, 0xFFFF", -1, 65536, []any{}, true},
		"bits":          {nil, nil, "0", "3-5", "15-16", "60-63", "5-3", 3.5, "-"},
		"values":        {nil, nil, "0=off, 1=on", map[string]any{"1": "on"}, map[string]any{}, map[string]any{"x": 1}, "=", []any{}},
		"bitNames":      {nil, nil, nil, "0=a", map[string]any{"63": "a"}, map[string]any{"-1": "a"}},
		"notAvailable":  {nil, nil, "sunspec", "none", 0, "0xFFFF", -1, "0x10000000000000000", []any{0, 1}, 1e300},
		"charset":       {nil, "utf-16", "latin1"},
		"padding":       {nil, "blank"},
		"trim":          {nil, false},
		"packing":       {nil, nil, "high"},
		"scale":         {nil, nil, 0.1},
		"byteOrder":     {nil, nil, "CDAB", "CDABGHEF"},
		"addressing":    {nil, nil, "one", "modicon"},
	}
	typs := []v1beta1.PropertyType{"INT", "FLOAT", "DOUBLE", "STRING", "BOOLEAN", "BYTES"}
	rapid.Check(t, func(t *rapid.T) {
		visitor := map[string]any{"register": rapid.SampledFrom([]string{"HoldingRegister", "HoldingRegister", "InputRegister", "CoilRegister"}).Draw(t, "register")}
		for _, k := range slices.Sorted(maps.Keys(settingValues)) {
			if v := rapid.SampledFrom(settingValues[k]).Draw(t, k); v != nil {
				visitor[k] = v
			}
		}
		p, err := parsePoint(0, devices.Point{Type: rapid.SampledFrom(typs).Draw(t, "type"), Visitor: devices.Merge(visitor)}, settings{maxRegisters: 125, maxBits: 2000})
		if err != nil {
			return
		}
		data := rapid.SliceOfN(rapid.Byte(), 2*p.Count, 2*p.Count).Draw(t, "data")
		v, err := p.Decode(data, p.Address)
		if err != nil {
			return
		}
		p.Zero(data)
		want, err := p.Encode(v.String(), data)
		if err != nil || p.Table.Bits() {
			return
		}
		again, err := p.Decode(want, p.Address)
		x, isNumber := v.Float64()
		y, _ := again.Float64()
		near := isNumber && math.Abs(x-y) <= 1e-6*math.Abs(x) // a scaled float is rounded
		if err != nil || again.String() != v.String() && !near {
			t.Fatalf("%v: %x is %s, written as %x it is %s, %v", visitor, data, v, want, again, err)
		}
		if at, payload := p.Payload(want); at < p.Address || at+len(payload)/2 > p.End() {
			t.Fatalf("%v: %d registers are written at %d", visitor, len(payload)/2, at)
		}
	})
}

// Pain 28: on TCP 0, 1 and 255 are three units, and a gateway's exception may come
// from 0 or 255 for any of them.
func TestPain28UnitsZeroOneAnd255(t *testing.T) {
	s := newSlave(t)
	p := newProxy(t, s.addr)
	r := newRig(t)
	for _, unit := range []int{0, 1, 255} {
		s.set(byte(unit), codec.Holdings, 0, uint16(1000+unit))
		r.apply(fmt.Sprint("u", unit), p.addr, map[string]any{"slaveID": unit}, one)
	}
	for _, unit := range []int{0, 1, 255} {
		polltest.Eventually(t, "value", func() bool { return r.sink.reported(fmt.Sprint("u", unit), "x") == fmt.Sprint(1000+unit) })
	}
	for _, from := range []byte{0, 255} {
		s.setFail(1, server.ErrGWPathUnavailable)
		p.set(func(p *proxy) {
			p.fault = func(unit byte, a []byte, send func([]byte)) {
				if a[7]&0x80 != 0 {
					a[6] = from
				}
				send(a)
			}
		})
		polltest.Eventually(t, "gateway's exception", func() bool { return r.sink.twin("u1", "x").Reported.Metadata["reason"] == "GatewayTargetSilent" })
		s.setFail(1, nil)
		polltest.Eventually(t, "good again", func() bool { return r.sink.twin("u1", "x").Reported.Metadata["quality"] == "good" })
	}
}

// Pain 30: an adapter that returns what is sent. The echo of a write looks like its
// answer: it must not make a write to a silent unit look done.
func TestPain30LocalEcho(t *testing.T) {
	t.Parallel()
	for _, known := range []bool{false, true} {
		t.Run(fmt.Sprint("localEcho ", known), func(t *testing.T) {
			s := newSlave(t)
			s.set(1, codec.Inputs, 0, 55)
			l, path, _ := newPort(t, s.addr)
			l.set(func(l *line) { l.echo = true })
			r := newRig(t)
			c := serialConfig(path, 1)
			c["localEcho"] = known
			d := r.apply("d", s.addr, c, prop{name: "in", typ: "INT", ro: true, visitor: visitor("InputRegister", 0, nil), cycle: 20},
				prop{name: "set", typ: "INT", visitor: holding(0), cycle: 20, desired: "7"},
				prop{name: "blind", typ: "INT", visitor: holding(1, "readBack", false), cycle: 1000, desired: ""})
			polltest.Eventually(t, "value", func() bool { return r.sink.reported("d", "in") == "55" })
			polltest.Eventually(t, "ack", func() bool { return r.sink.ack("d", "set") == "applied" && s.get(1, codec.Holdings, 0) == 7 })
			l.set(func(l *line) { l.silent = func(byte) bool { return true } })
			r.desire(d, "set", "8")
			if known {
				r.desire(d, "blind", "9")
			}
			polltest.Eventually(t, "offline", func() bool { return r.sink.state("d") == v1beta1.StateOffline })
			if r.sink.ack("d", "set") == "applied" && r.sink.twin("d", "set").ObservedDesired.Value == "8" {
				t.Fatal("a write that nobody answered is acknowledged")
			}
			if known && r.sink.ack("d", "blind") == "applied" {
				t.Fatal("an echo is acknowledged")
			}
			l.set(func(l *line) { l.silent = nil })
			polltest.Eventually(t, "written after all", func() bool { return s.get(1, codec.Holdings, 0) == 8 })
		})
	}
}
