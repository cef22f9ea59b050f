package modbus

import (
	"encoding/binary"
	"sync/atomic"
	"testing"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/internal/polltest"
)

// Pain 2 where nothing follows the late answer: it is not taken for that of a register
// that the unit does not answer for, however late it is.
func TestPain02LateAnswerBeforeSilence(t *testing.T) {
	t.Parallel()
	s := newSlave(t)
	l, path, _ := newPort(t, s.addr)
	var silences atomic.Int64
	l.set(func(l *line) {
		l.fault = func(a []byte, send func([]byte)) {
			switch binary.BigEndian.Uint16(a[3:]) {
			case 1000: // later than anybody waits for late answers
				time.Sleep(500 * time.Millisecond)
			case 1001:
				silences.Add(1)
				return
			}
			send(a)
		}
	})
	props := []prop{{name: "late", cycle: 60}, {name: "silent", cycle: 60}, {name: "good", cycle: 20}}
	for i := range props {
		s.set(1, codec.Holdings, i*200, uint16(1000+i))
		props[i].typ, props[i].visitor = "INT", holding(i*200)
	}
	r := newRig(t)
	c := serialConfig(path, 1)
	c["timeout"], c["minTimeout"], c["retries"], c["maxRegisters"] = 200, 200, 0, 10
	r.apply("d", s.addr, c, props...)
	polltest.Within(t, 3*time.Minute, "silences", func() bool { return silences.Load() > 8 && r.sink.count("d", "good") > 8 })
	r.stop()
	for _, b := range r.sink.samples["d"] {
		for _, x := range b.Samples {
			if x.Quality == devices.Good && (x.Property == "silent" || x.Property == "good" && x.Value != devices.Int(1002)) {
				t.Fatalf("%s = %s", x.Property, x.Value)
			}
		}
	}
}
