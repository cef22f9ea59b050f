package modbus

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	server "github.com/simonvetter/modbus"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/devices/modbus/link"
	"github.com/petiole-io/petiole/internal/polltest"
)

// command has a device set one property, under an id of its own.
func (r *rig) command(device, id, property, value string) devices.PropertyResult {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := devices.Command{ID: id, Device: devices.Ref{Namespace: "ns", Name: device}, Properties: map[string]string{property: value}}
	result, err := r.host.Command(ctx, c)
	if err != nil {
		r.t.Fatal(err)
	}
	return result.Properties[property]
}

// A command goes out each time it is given, with every function that writes, and the
// answer says what went out. The same as a desired value is written once.
func TestCommandIsSentEachTime(t *testing.T) {
	s := newSlave(t)
	p := newProxy(t, s.addr)
	n := functions(p)
	r := newRig(t)
	props := []prop{
		{name: "reset", typ: "INT", visitor: holding(60), cycle: 20},
		{name: "block", typ: "BYTES", visitor: holding(70, "limit", 3), cycle: 20},
		{name: "coil", typ: "BOOLEAN", visitor: visitor("CoilRegister", 5, nil), cycle: 20},
		{name: "coils", typ: "INT", visitor: visitor("CoilRegister", 8, []any{"limit", 3}), cycle: 20},
		{name: "blind", typ: "INT", visitor: holding(80, "readBack", false), cycle: 20},
		{name: "bit", typ: "BOOLEAN", visitor: holding(90, "bit", 3), cycle: 20},
	}
	r.apply("d", p.addr, nil, props...)
	polltest.Eventually(t, "value", func() bool { return r.sink.count("d", "bit") > 0 })
	r.command("d", "mask", "bit", "false") // the unit does not know function 22
	for _, c := range []struct {
		property, value, sent string
		function              byte
	}{
		{"reset", "1", "FC 6 HoldingRegister 60: 0001", 6},
		{"block", "080c00000001", "FC 16 HoldingRegister 70-72: 080c 0000 0001", 16},
		{"coil", "true", "FC 5 CoilRegister 5: 1", 5},
		{"coils", "5", "FC 15 CoilRegister 8-10: 101", 15},
		{"blind", "7", "FC 6 HoldingRegister 80: 0007", 6},
		{"bit", "true", "FC 6 HoldingRegister 90: 0008", 6},
	} {
		before := n[c.function].Load()
		for _, id := range []string{"1", "2", "3"} {
			got := r.command("d", c.property+id, c.property, c.value)
			if got.Ack != devices.Applied || !got.Written || got.Sent != c.sent || got.Reason != "" {
				t.Errorf("%s %s: %+v", c.property, id, got)
			}
			if id != "1" && c.property != "blind" && (got.Before != c.value || got.After != c.value) {
				t.Errorf("%s %s: %+v", c.property, id, got)
			}
		}
		if sent := n[c.function].Load() - before; sent != 3 {
			t.Errorf("%s: function %d went out %d times for three commands", c.property, c.function, sent)
		}
	}
	written := s.writes()
	d := r.apply("d", p.addr, nil, props...)
	r.desire(d, "reset", "1")
	polltest.Eventually(t, "desired", func() bool { return r.sink.ack("d", "reset") == "applied" })
	if s.writes() != written {
		t.Error("a desired value that is there was written")
	}
}

// A register that the unit acts on and resets is no failure; one that keeps another
// value, or an old one, is.
func TestCommandAndWhatTheUnitKeeps(t *testing.T) {
	s := newSlave(t)
	s.set(1, codec.Holdings, 3, 30)
	s.onWrite = func(_ byte, start int, v []uint16) []uint16 {
		switch start {
		case 0, 10: // acts, and resets
			return make([]uint16, len(v))
		case 2:
			return []uint16{min(v[0], 50)}
		case 3:
			return []uint16{30}
		default:
			return v
		}
	}
	r := newRig(t)
	r.apply("d", s.addr, nil, prop{name: "trigger", typ: "INT", visitor: holding(0), cycle: 20}, prop{name: "clamped", typ: "INT", visitor: holding(2), cycle: 20},
		prop{name: "ignored", typ: "INT", visitor: holding(3), cycle: 20}, prop{name: "bits", typ: "INT", visitor: visitor("CoilRegister", 10, []any{"limit", 3}), cycle: 20},
		prop{name: "kept", typ: "INT", visitor: holding(5), cycle: 20})
	polltest.Eventually(t, "value", func() bool { return r.sink.count("d", "kept") > 0 })
	for _, c := range []struct {
		property, value, ack, reason, after string
	}{
		{"trigger", "1", "applied", devices.ReasonReset, "0"},
		{"trigger", "1", "applied", devices.ReasonReset, "0"},
		{"bits", "7", "applied", devices.ReasonReset, "0"},
		{"clamped", "60", "rejected", devices.ReasonReadBack, "50"},
		{"ignored", "40", "rejected", devices.ReasonReadBack, "30"},
		{"kept", "9", "applied", "", "9"},
		{"kept", "0", "applied", "", "0"},
	} {
		got := r.command("d", c.property+c.value+time.Now().String(), c.property, c.value)
		if string(got.Ack) != c.ack || got.Reason != c.reason || got.After != c.after || !got.Written || got.Sent == "" {
			t.Errorf("%s = %s: %+v", c.property, c.value, got)
		}
	}
	d := r.apply("e", s.addr, nil, prop{name: "trigger", typ: "INT", visitor: holding(0), cycle: 20})
	r.desire(d, "trigger", "1")
	polltest.Eventually(t, "a desired value must be there", func() bool { return r.sink.ack("e", "trigger") == "rejected" })
}

// A command is never sent twice. Where its answer is lost, applied is said only when the
// register shows that the unit took it.
func TestCommandWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	s := newSlave(t)
	s.set(1, codec.Holdings, 0, 5)
	p := newProxy(t, s.addr)
	var writes atomic.Int64
	var mute atomic.Bool // no more replies, not even to reads
	answers := func(write func(answer []byte, send func([]byte))) {
		mute.Store(false)
		p.set(func(p *proxy) {
			p.fault = func(_ byte, a []byte, send func([]byte)) {
				switch {
				case a[7] == 6:
					writes.Add(1)
					write(a, send)
				case !mute.Load():
					send(a)
				}
			}
		})
	}
	answers(func(a []byte, send func([]byte)) { send(a) })
	r := newRig(t)
	r.apply("d", p.addr, map[string]any{"timeout": 500, "minTimeout": 500, "retries": 1}, prop{name: "x", typ: "INT", visitor: holding(0), cycle: 1000}, prop{name: "blind", typ: "INT", visitor: holding(1, "readBack", false), cycle: 1000})
	polltest.Eventually(t, "value", func() bool { return r.sink.count("d", "x") > 0 })
	drop := func([]byte, func([]byte)) {}
	for i, c := range []struct {
		name, property, value, ack, reason string
		write                              func([]byte, func([]byte))
	}{
		{"the value was there before", "x", "5", "failed", devices.ReasonUnverified, drop},
		{"the register has changed", "x", "6", "applied", "", drop},
		{"nothing can be read", "blind", "1", "failed", devices.ReasonUnverified, drop},
		{"the read-back is lost", "x", "7", "applied", devices.ReasonUnverified, func(a []byte, send func([]byte)) { mute.Store(true); send(a) }},
	} {
		polltest.Eventually(t, "the unit answers", func() bool { // after the silence of the case before
			answers(c.write)
			got := r.sink.twin("d", "x").Reported
			return got != nil && got.Metadata["quality"] == "good" && r.sink.state("d") == "online"
		})
		writes.Store(0)
		got := r.command("d", string(rune('a'+i)), c.property, c.value)
		if string(got.Ack) != c.ack || got.Reason != c.reason || !got.Written {
			t.Errorf("%s: %+v", c.name, got)
		}
		if c.ack == "failed" && !strings.HasSuffix(got.Sent, "(Timeout)") {
			t.Errorf("%s: %+v", c.name, got)
		}
		if n := writes.Load(); n != 1 {
			t.Errorf("%s: written %d times", c.name, n)
		}
		answers(func(a []byte, send func([]byte)) { send(a) })
	}
}

// What the unit or its gateway says it has not done is known not to be done.
func TestCommandThatIsDeclined(t *testing.T) {
	s := newSlave(t)
	p := newProxy(t, s.addr)
	var code atomic.Uint32
	p.set(func(p *proxy) {
		p.fault = func(_ byte, a []byte, send func([]byte)) {
			if a[7] == 6 { // an exception in the place of the echo
				a = append([]byte{a[0], a[1], 0, 0, 0, 3, a[6], 0x86}, byte(code.Load()))
			}
			send(a)
		}
	})
	r := newRig(t)
	r.apply("d", p.addr, nil, prop{name: "x", typ: "INT", visitor: holding(0), cycle: 20})
	for _, c := range []struct {
		code             byte
		ack, reason, why string
	}{
		{link.IllegalValue, "rejected", devices.ReasonRefused, "IllegalValue"},
		{link.DeviceFailure, "failed", devices.ReasonFailure, "DeviceFailure"},
		{link.Busy, "failed", devices.ReasonFailure, "UnitBusy"},
		{link.Acknowledge, "failed", devices.ReasonUnverified, "UnitBusy"},
		{link.GatewayPath, "failed", devices.ReasonFailure, "GatewayTargetSilent"},
		{link.GatewayTarget, "failed", devices.ReasonUnverified, "GatewayTargetSilent"},
	} {
		polltest.Eventually(t, "online", func() bool { return r.sink.state("d") == "online" })
		code.Store(uint32(c.code))
		got := r.command("d", devices.Int(int64(c.code)).String(), "x", "1")
		if string(got.Ack) != c.ack || got.Reason != c.reason || got.Sent != "FC 6 HoldingRegister 0: 0001 ("+c.why+")" {
			t.Errorf("exception %d: %+v", c.code, got)
		}
	}
	// What never went out was not written.
	s.setFail(1, server.ErrServerDeviceFailure)
	if got := r.command("d", "read", "x", "1"); got.Ack == devices.Applied || got.Written || got.Sent != "" {
		t.Errorf("%+v", got)
	}
}
