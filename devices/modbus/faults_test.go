package modbus

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	server "github.com/simonvetter/modbus"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/internal/polltest"
)

var one = prop{name: "x", typ: "INT", visitor: holding(0), cycle: 20}

// Pain 1: a silent unit neither stalls nor blanks the others of its link, and is asked
// ever more rarely.
func TestPain01DeadUnitLeavesTheOthersAlone(t *testing.T) {
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
	for i, name := range []string{"a", "b", "c"} {
		r.apply(name, p.addr, map[string]any{"slaveID": i + 1}, one)
	}
	cycles := func(n int) {
		t.Helper()
		begin := [3]int{r.sink.count("a", "x"), r.sink.count("b", "x"), r.sink.count("c", "x")}
		polltest.Within(t, 3*time.Minute, fmt.Sprint(n, " cycles"), func() bool {
			return r.sink.count("a", "x") > begin[0]+n && r.sink.count("b", "x") > begin[1]+n && r.sink.count("c", "x") > begin[2]+n
		})
	}
	cycles(5)
	r.apply("dead", p.addr, map[string]any{"slaveID": 9, "timeout": 100}, one)
	polltest.Eventually(t, "dead is offline", func() bool { return r.sink.state("dead") == v1beta1.StateOffline })
	polltest.Eventually(t, "breaker", func() bool { return r.sink.twin("dead", "x").Reported.Metadata["reason"] == "UnitSilent" })
	begin, before := time.Now(), probes.Load()
	cycles(40)
	// A pause between probes takes 0.75 s at least. However long the machine takes for the cycles,
	// no more probes than that fit; one more may have been on its way.
	if n, most := probes.Load()-before, 2+int64(time.Since(begin)/(750*time.Millisecond)); n > most {
		t.Errorf("the dead unit was asked %d times in 40 cycles, want at most %d", n, most)
	}
	p.set(func(p *proxy) { p.drop = nil })
	polltest.Eventually(t, "dead is back", func() bool { return r.sink.state("dead") == v1beta1.StateOnline })
}

// Pain 2: a late answer is never taken for another request's.
func TestPain02LateAnswerShiftsNothing(t *testing.T) {
	t.Parallel()
	s := newSlave(t)
	for i := range 100 {
		s.set(1, codec.Holdings, i*200, uint16(1000+i))
	}
	p := newProxy(t, s.addr)
	var n atomic.Int64
	p.set(func(p *proxy) {
		p.fault = func(_ byte, answer []byte, send func([]byte)) {
			if n.Add(1)%5 == 0 {
				time.Sleep(400 * time.Millisecond) // later than the timeout
			}
			send(answer)
		}
	})
	r := newRig(t)
	props := make([]prop, 10)
	for i := range props {
		props[i] = prop{name: string(rune('a' + i)), typ: "INT", visitor: holding(i * 200), cycle: 10}
	}
	r.apply("d", p.addr, map[string]any{"timeout": 200, "retries": 2}, props...)
	polltest.Within(t, 3*time.Minute, "values", func() bool { return r.sink.count("d", "j") > 6 })
	r.stop()
	for _, b := range r.sink.samples["d"] {
		for _, x := range b.Samples {
			if want := 1000 + int64(x.Property[0]-'a'); x.Quality == devices.Good && x.Value != devices.Int(want) {
				t.Fatalf("%s = %s, want %d", x.Property, x.Value, want)
			}
		}
	}
}

// Pain 3: a connection that breaks is made again, also in the middle of an answer.
func TestPain03ReconnectsByItself(t *testing.T) {
	t.Parallel()
	s := newSlave(t)
	p := newProxy(t, s.addr)
	r := newRig(t)
	r.apply("d", p.addr, nil, one)
	for range 5 {
		n := r.sink.count("d", "x")
		polltest.Eventually(t, "samples", func() bool { return r.sink.count("d", "x") > n+2 })
		p.cut()
	}
	p.set(func(p *proxy) {
		p.fault = func(_ byte, answer []byte, send func([]byte)) { send(answer[:5]); p.cut() }
	})
	polltest.Eventually(t, "offline", func() bool { return r.sink.state("d") == v1beta1.StateOffline })
	p.set(func(p *proxy) { p.fault = nil })
	polltest.Eventually(t, "online", func() bool { return r.sink.state("d") == v1beta1.StateOnline })
}

// Pain 4: a gateway that allows one connection serves all units behind it.
func TestPain04OneConnectionForAllUnits(t *testing.T) {
	s := newSlave(t)
	p := newProxy(t, s.addr)
	p.set(func(p *proxy) { p.single = true })
	r := newRig(t)
	for i := range 8 {
		s.set(byte(i+1), codec.Holdings, 0, uint16(100+i))
		r.apply(string(rune('a'+i)), p.addr, map[string]any{"slaveID": i + 1}, one)
	}
	for i := range 8 {
		polltest.Eventually(t, "unit", func() bool { return r.sink.reported(string(rune('a'+i)), "x") == devices.Int(int64(100+i)).String() })
	}
	if _, accepted := p.connections(); accepted != 1 {
		t.Fatalf("%d connections", accepted)
	}
}

// Pain 8: a hole in a merged request is found and left out, and good points are read
// in every cycle, also in the first.
func TestPain08HolesAreFoundAndRemembered(t *testing.T) {
	s := newSlave(t)
	s.hole(codec.Holdings, 12, 17)
	s.hole(codec.Holdings, 30, 31)
	s.hole(codec.Holdings, 50, 51) // a point lies in this one
	for i := range 60 {
		s.set(1, codec.Holdings, i, uint16(i))
	}
	r := newRig(t)
	var props []prop
	at := []int{0, 5, 10, 11, 17, 20, 25, 29, 31, 40, 50, 55}
	for _, a := range at {
		props = append(props, prop{name: devices.Int(int64(a)).String(), typ: "INT", visitor: holding(a), cycle: 30})
	}
	r.apply("d", s.addr, nil, props...)
	for _, a := range at {
		name := devices.Int(int64(a)).String()
		if a == 50 {
			polltest.Eventually(t, "the refused point", func() bool {
				tw := r.sink.twin("d", name).Reported
				return tw != nil && tw.Metadata["reason"] == "IllegalAddress" && tw.Metadata["quality"] == "bad"
			})
			continue
		}
		polltest.Eventually(t, name, func() bool { return r.sink.reported("d", name) == name })
	}
	n := r.sink.count("d", "0")
	s.requests()
	polltest.Eventually(t, "cycles", func() bool { return r.sink.count("d", "0") >= n+4 })
	log := s.requests()
	if n := r.sink.count("d", "0") - n; len(log) > 6*n {
		t.Fatalf("%d requests for %d cycles: %v", len(log), n, log)
	}
	if r.sink.state("d") != devices.StateDegraded {
		t.Fatal("a refused point does not make a device offline")
	}
}

// Pain 9: a device that gives fewer registers in one request than the protocol allows.
func TestPain09SmallestRequestIsLearned(t *testing.T) {
	s := newSlave(t)
	s.most = 20
	r := newRig(t)
	props := make([]prop, 100)
	for i := range props {
		s.set(1, codec.Holdings, i, uint16(i))
		props[i] = prop{name: devices.Int(int64(i)).String(), typ: "INT", visitor: holding(i), cycle: 30}
	}
	r.apply("d", s.addr, nil, props...)
	for _, p := range props {
		polltest.Eventually(t, p.name, func() bool { return r.sink.reported("d", p.name) == p.name })
	}
	s.requests()
	n := r.sink.count("d", "99")
	polltest.Eventually(t, "cycles", func() bool { return r.sink.count("d", "99") >= n+3 })
	if log := s.requests(); slices.ContainsFunc(log, func(r request) bool { return r.count > 20 }) {
		t.Fatal(log)
	}
}

// Pain 13: a device that is deaf for a while after connecting.
func TestPain13PauseAfterConnect(t *testing.T) {
	t.Parallel()
	s := newSlave(t)
	s.set(1, codec.Holdings, 0, 3)
	p := newProxy(t, s.addr)
	var lost atomic.Int64
	p.set(func(p *proxy) {
		p.drop = func(byte) bool { // the proxy's lock is held
			early := time.Since(p.opened) < 300*time.Millisecond
			if early {
				lost.Add(1)
			}
			return early
		}
	})
	r := newRig(t)
	r.apply("d", p.addr, map[string]any{"pauseAfterConnect": "3000"}, one)
	polltest.Eventually(t, "value", func() bool { return r.sink.reported("d", "x") == "3" })
	if lost.Load() != 0 {
		t.Fatalf("%d requests came while the device was deaf", lost.Load())
	}
}

// Pain 14: a device that needs a pause between requests.
func TestPain14PauseBetweenRequests(t *testing.T) {
	s := newSlave(t)
	p := newProxy(t, s.addr)
	var last atomic.Int64
	var tooSoon atomic.Bool
	p.set(func(p *proxy) {
		p.fault = func(_ byte, answer []byte, send func([]byte)) {
			if now := time.Now().UnixMilli(); now-last.Swap(now) < 28 {
				tooSoon.Store(true)
			}
			send(answer)
		}
	})
	r := newRig(t)
	r.apply("d", p.addr, map[string]any{"pauseBetweenRequests": "30"}, prop{name: "x", typ: "INT", visitor: holding(0), cycle: 1})
	polltest.Eventually(t, "samples", func() bool { return r.sink.count("d", "x") > 5 })
	if tooSoon.Load() {
		t.Fatal("a request came too soon")
	}
}

// Pain 23: a busy unit or an error is never recorded as 0; the last good value stays,
// with its age.
func TestPain23ErrorsAreNotZero(t *testing.T) {
	s := newSlave(t)
	s.set(1, codec.Holdings, 0, 33)
	r := newRig(t)
	r.apply("d", s.addr, nil, one)
	polltest.Eventually(t, "good", func() bool { return r.sink.reported("d", "x") == "33" })
	for err, reason := range map[error]string{server.ErrServerDeviceBusy: "UnitBusy", server.ErrServerDeviceFailure: "DeviceFailure", server.ErrIllegalFunction: "IllegalFunction"} {
		s.setFail(1, err)
		polltest.Eventually(t, reason, func() bool {
			m := r.sink.twin("d", "x").Reported
			return m.Metadata["quality"] == "bad" && m.Metadata["reason"] == reason && m.Value == "33" && m.Metadata["timestamp"] != ""
		})
		if r.sink.state("d") != devices.StateDegraded {
			t.Fatal("a device that answers is not offline")
		}
		s.setFail(1, nil)
		polltest.Eventually(t, "good again", func() bool { return r.sink.twin("d", "x").Reported.Metadata["quality"] == "good" })
	}
}

// Exceptions 10 and 11 mean that the unit is down, and the link is not.
func TestGatewayExceptionsTakeOnlyTheUnitDown(t *testing.T) {
	t.Parallel()
	s := newSlave(t)
	s.setFail(2, server.ErrGWTargetFailedToRespond)
	p := newProxy(t, s.addr)
	p.set(func(p *proxy) {
		// Pain 28: some gateways answer so as unit 255.
		p.fault = func(unit byte, a []byte, send func([]byte)) {
			if unit == 2 && a[7]&0x80 != 0 {
				a[6] = 255
			}
			send(a)
		}
	})
	r := newRig(t)
	r.apply("up", p.addr, nil, one)
	r.apply("down", p.addr, map[string]any{"slaveID": 2}, one)
	polltest.Eventually(t, "down", func() bool { return r.sink.state("down") == v1beta1.StateOffline })
	n := r.sink.count("up", "x")
	polltest.Eventually(t, "up", func() bool { return r.sink.count("up", "x") > n+10 })
	if _, accepted := p.connections(); accepted != 1 {
		t.Fatal("the link was dropped")
	}
	s.setFail(2, nil)
	polltest.Eventually(t, "back", func() bool { return r.sink.state("down") == v1beta1.StateOnline })
}

// Pain 26: a device that knows function 16 only.
func TestPain26FunctionSixteenOnly(t *testing.T) {
	s := newSlave(t)
	p := newProxy(t, s.addr)
	var functions [256]atomic.Int64
	p.set(func(p *proxy) {
		p.fault = func(_ byte, a []byte, send func([]byte)) { functions[a[7]].Add(1); send(a) }
	})
	r := newRig(t)
	r.apply("d", p.addr, map[string]any{"writeFunction": "multiple"}, prop{name: "x", typ: "INT", visitor: holding(0), desired: "3"},
		prop{name: "c", typ: "BOOLEAN", visitor: visitor("CoilRegister", 0, nil), desired: "on"})
	polltest.Eventually(t, "acks", func() bool { return r.sink.ack("d", "x") == "applied" && r.sink.ack("d", "c") == "applied" })
	if functions[6].Load()+functions[5].Load() != 0 || functions[16].Load() != 1 || functions[15].Load() != 1 {
		t.Fatal("wrong functions")
	}
}

// Pain 29: a peer that lost its power is found by its silence, not by a minute of TCP.
func TestPain29HalfOpenConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	s := newSlave(t)
	p := newProxy(t, s.addr)
	r := newRig(t)
	r.apply("d", p.addr, map[string]any{"timeout": 50}, one)
	polltest.Eventually(t, "samples", func() bool { return r.sink.count("d", "x") > 1 })
	p.set(func(p *proxy) { p.drop = func(byte) bool { return true } })
	polltest.Eventually(t, "a new connection", func() bool { _, accepted := p.connections(); return accepted > 1 })
	p.set(func(p *proxy) { p.drop = nil })
	polltest.Eventually(t, "online", func() bool { return r.sink.state("d") == v1beta1.StateOnline })
}
