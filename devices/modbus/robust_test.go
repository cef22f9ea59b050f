package modbus

import (
	"encoding/binary"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/porttest"
)

// Pain 16, 25: answers of a wrong function, wrong length or from a wrong unit, noise,
// and answers that arrive in pieces or several at once.
func TestPain16WrongAnswersAreNoValues(t *testing.T) {
	faults := map[string]func([]byte) []byte{
		"function": func(a []byte) []byte { a[7] = 0x74; return a },
		"short": func(a []byte) []byte {
			a = a[:len(a)-2]
			binary.BigEndian.PutUint16(a[4:], uint16(len(a)-6))
			a[8] -= 2
			return a
		},
		"count":    func(a []byte) []byte { a[8] = 200; return a },
		"unit":     func(a []byte) []byte { a[6] = 77; return a },
		"protocol": func(a []byte) []byte { a[2] = 0x48; return a },
		"number":   func(a []byte) []byte { a[0] ^= 0x80; return a },
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			s := newSlave(t)
			s.set(1, codec.Holdings, 0, 4711, 4712)
			p := newProxy(t, s.addr)
			p.set(func(p *proxy) { p.fault = func(_ byte, a []byte, send func([]byte)) { send(fault(a)) } })
			r := newRig(t)
			r.apply("d", p.addr, map[string]any{"timeout": 50, "retries": 0}, prop{name: "x", typ: "INT", visitor: holding(0, "limit", 2), cycle: 20})
			polltest.Eventually(t, "bad", func() bool {
				tw := r.sink.twin("d", "x").Reported
				return tw != nil && tw.Metadata["quality"] == "bad" && tw.Value == ""
			})
			p.set(func(p *proxy) { p.fault = nil })
			polltest.Eventually(t, "good", func() bool { return r.sink.reported("d", "x") == "308744808" })
		})
	}
}

func TestPain25PiecesAndHeaps(t *testing.T) {
	s := newSlave(t)
	s.set(1, codec.Holdings, 0, 1, 2, 3)
	p := newProxy(t, s.addr)
	var before []byte
	p.set(func(p *proxy) {
		p.fault = func(_ byte, a []byte, send func([]byte)) {
			if before != nil { // an old answer and half of the new one at once
				send(append(slices.Clone(before), a[:8]...))
				a = a[8:]
			}
			before = slices.Clone(a)
			for i := range a {
				send(a[i : i+1])
			}
			before = nil
		}
	})
	r := newRig(t)
	r.apply("d", p.addr, nil, prop{name: "x", typ: "INT", visitor: holding(2), cycle: 10})
	polltest.Eventually(t, "samples", func() bool { return r.sink.count("d", "x") > 10 })
	if r.sink.reported("d", "x") != "3" {
		t.Fatal("wrong value")
	}
}

// A slave that is not there yet, and one that restarts.
func TestSlaveStartsLater(t *testing.T) {
	addr := porttest.Addr(t)
	r := newRig(t)
	r.apply("d", addr, nil, one)
	polltest.Eventually(t, "offline", func() bool { return r.sink.state("d") == v1beta1.StateOffline })
	if x := r.sink.status("d").Extensions.Data; x["reason"] != "LinkDown" {
		t.Fatal(pretty(x))
	}
	s := &slave{addr: addr, regs: map[byte]map[codec.Table][]uint16{}, holes: map[codec.Table]map[int]bool{}, fail: map[byte]error{}}
	srv := s.start(t, addr)
	polltest.Eventually(t, "online", func() bool { return r.sink.state("d") == v1beta1.StateOnline })
	_ = srv.Stop()
	polltest.Eventually(t, "offline", func() bool { return r.sink.state("d") == v1beta1.StateOffline })
	s.start(t, addr)
	polltest.Eventually(t, "online again", func() bool { return r.sink.state("d") == v1beta1.StateOnline })
}

// Values of several registers are never torn: the slave changes both halves at once.
func TestValuesAreNeverTorn(t *testing.T) {
	s := newSlave(t)
	r := newRig(t)
	var props []prop
	for i := range 150 { // far more than one request holds
		props = append(props, prop{name: devices.Int(int64(i)).String(), typ: "INT", visitor: holding(i*4, "dataType", "uint64"), cycle: 5})
	}
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := uint16(1); ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Microsecond):
			}
			s.mu.Lock()
			regs := s.table(1, codec.Holdings)
			for i := range 600 {
				regs[i] = n
			}
			s.mu.Unlock()
		}
	}()
	r.apply("d", s.addr, nil, props...)
	polltest.Eventually(t, "samples", func() bool { return r.sink.count("d", "149") > 30 })
	close(stop)
	<-done
	r.stop()
	good := 0
	defer func() {
		if good < 30*len(props)/2 { // half of what was waited for
			t.Errorf("%d good values", good)
		}
	}()
	for _, b := range r.sink.samples["d"] {
		for _, x := range b.Samples {
			if x.Quality != devices.Good {
				continue // the machine is slow
			}
			good++
			var u [8]byte
			n, err := parseUint(x.Value.String())
			if err != nil {
				t.Fatal(err)
			}
			binary.BigEndian.PutUint64(u[:], n)
			if u[0] != u[2] || u[1] != u[3] || u[2] != u[4] || u[3] != u[5] || u[4] != u[6] || u[5] != u[7] {
				t.Fatalf("%s is torn: %x", x.Property, u)
			}
		}
	}
}

// With nothing but noise from the other side nothing crashes and nothing is a value.
func TestNoiseIsNoValue(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			c.Close()
		}
	}()
	r := newRig(t)
	r.apply("d", l.Addr().String(), map[string]any{"timeout": 50}, one)
	polltest.Eventually(t, "offline", func() bool {
		tw := r.sink.twin("d", "x").Reported
		return tw != nil && tw.Metadata["quality"] == "bad"
	})
	r.stop()
	l.Close()
	<-done
	if r.sink.count("d", "x") != 0 {
		t.Fatal("noise became a value")
	}
}
