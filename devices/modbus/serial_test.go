package modbus

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	goburrow "github.com/goburrow/modbus"
	"golang.org/x/sys/unix"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/internal/polltest"
)

// line is a serial line with slaves on it: a pseudo terminal, or a socket, whose far
// end translates RTU frames for a TCP slave. Its checksums are goburrow's, not ours.
type line struct {
	mu     sync.Mutex
	fault  func(answer []byte, send func([]byte))
	echo   bool
	silent func(unit byte) bool
	seen   int
}

func (l *line) set(change func(*line)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l)
}

// serve translates until the port closes. Requests are found by their length.
func (l *line) serve(port io.ReadWriter, slave string) {
	s, err := net.Dial("tcp", slave)
	if err != nil {
		return
	}
	defer s.Close()
	var buf []byte
	chunk := make([]byte, 512)
	for {
		n, err := port.Read(chunk)
		if err != nil {
			return
		}
		buf = append(buf, chunk[:n]...)
		for {
			want := requestLength(buf)
			if len(buf) < want {
				break
			}
			req := buf[:want]
			buf = append([]byte(nil), buf[want:]...)
			if err := l.answer(port, s, req); err != nil {
				return
			}
		}
	}
}

func requestLength(buf []byte) int {
	switch {
	case len(buf) > 1 && (buf[1] == 7 || buf[1] == 11 || buf[1] == 17): // nothing but the function
		return 4
	case len(buf) > 6 && (buf[1] == 15 || buf[1] == 16):
		return 9 + int(buf[6])
	default:
		return 8
	}
}

func (l *line) answer(port io.ReadWriter, s net.Conn, req []byte) error {
	l.mu.Lock()
	fault, echo, mute := l.fault, l.echo, l.silent
	l.seen++
	l.mu.Unlock()
	if echo {
		_, _ = port.Write(req)
	}
	if mute != nil && mute(req[0]) {
		return nil
	}
	adu := binary.BigEndian.AppendUint16([]byte{0, 1, 0, 0}, uint16(len(req)-2))
	if _, err := s.Write(append(adu, req[:len(req)-2]...)); err != nil {
		return err
	}
	a, err := readFrame(s)
	if err != nil {
		return err
	}
	h := goburrow.NewRTUClientHandler("")
	h.SlaveId = a[6]
	out, err := h.Encode(&goburrow.ProtocolDataUnit{FunctionCode: a[7], Data: a[8:]})
	if err != nil {
		return err
	}
	send := func(b []byte) { _, _ = port.Write(b) }
	if fault != nil {
		fault(out, send)
		return nil
	}
	send(out)
	return nil
}

// newPort opens a pseudo terminal with a line behind it and returns its path.
func newPort(t *testing.T, slave string) (*line, string, *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/dev/pts/%d", n)
	// Held open, or the far end would read errors while the driver is not there; raw,
	// so that nothing is echoed before the driver sets the line.
	hold, err := openHold(path)
	if err != nil {
		t.Fatal(err)
	}
	master := os.NewFile(uintptr(fd), "ptmx")
	l := &line{}
	done := make(chan struct{})
	go func() { defer close(done); l.serve(master, slave) }()
	t.Cleanup(func() { _ = master.Close(); <-done; _ = unix.Close(hold) })
	return l, path, master
}

func openHold(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	return fd, unix.IoctlSetTermios(fd, unix.TCSETS, &unix.Termios{Cflag: unix.CREAD | unix.CLOCAL | unix.CS8 | unix.B9600})
}

func serialConfig(path string, unit int) map[string]any {
	return map[string]any{"communicateMode": "RTU", "serialName": path, "baudRate": "115200", "slaveID": unit, "timeout": 200}
}

func rtuSuite(t *testing.T, s *slave, l *line, config func(unit int) map[string]any) {
	r := newRig(t)
	for unit := 1; unit <= 3; unit++ { // pain 5: several devices on one port
		s.set(byte(unit), codec.Inputs, 10, uint16(unit*100))
		r.apply(string(rune('a'+unit-1)), s.addr, config(unit), prop{name: "in", typ: "INT", ro: true, visitor: visitor("InputRegister", 10, nil), cycle: 20},
			prop{name: "set", typ: "INT", visitor: holding(0, "dataType", "int32"), cycle: 20, desired: "70000"},
			prop{name: "coil", typ: "BOOLEAN", visitor: visitor("CoilRegister", 1, nil), cycle: 20, desired: "true"})
	}
	for i, d := range []string{"a", "b", "c"} {
		polltest.Eventually(t, d, func() bool { return r.sink.reported(d, "in") == devices.Int(int64(i+1)*100).String() })
		polltest.Eventually(t, d+" acks", func() bool { return r.sink.ack(d, "set") == "applied" && r.sink.ack(d, "coil") == "applied" })
		if s.get(byte(i+1), codec.Holdings, 0) != 1 || s.get(byte(i+1), codec.Holdings, 1) != 4464 || s.get(byte(i+1), codec.Coils, 1) != 1 {
			t.Fatal("register")
		}
	}
	goesOn := func(what, device string) {
		t.Helper()
		n := r.sink.count(device, "in")
		polltest.Eventually(t, what, func() bool { return r.sink.count(device, "in") > n+3 })
	}
	// Pain 30: local echo; pain 25: noise and pieces.
	l.set(func(l *line) { l.echo = true })
	goesOn("with echo", "a")
	l.set(func(l *line) {
		l.echo = false
		l.fault = func(a []byte, send func([]byte)) {
			send([]byte{0, 0xff, a[0], 0x55})
			for i := range a {
				send(a[i : i+1])
			}
			send([]byte{0xfe})
		}
	})
	goesOn("with noise", "b")
	l.set(func(l *line) { l.fault = func(a []byte, send func([]byte)) { a[3] ^= 1; send(a) } })
	polltest.Eventually(t, "a wrong checksum is no value", func() bool { return r.sink.twin("a", "in").Reported.Metadata["quality"] == "bad" })
	l.set(func(l *line) { l.fault = nil })
	goesOn("after noise", "a")
	l.set(func(l *line) { l.silent = func(unit byte) bool { return unit == 2 } })
	polltest.Eventually(t, "unit 2 is offline", func() bool { return r.sink.state("b") == v1beta1.StateOffline })
	goesOn("beside a silent unit", "c")
	l.set(func(l *line) { l.silent = nil })
	goesOn("after silence", "b")
}

func TestRTU(t *testing.T) {
	t.Parallel()
	s := newSlave(t)
	l, path, _ := newPort(t, s.addr)
	rtuSuite(t, s, l, func(unit int) map[string]any { return serialConfig(path, unit) })
}

func TestRTUOverTCP(t *testing.T) {
	t.Parallel()
	s := newSlave(t)
	l := &line{}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); l.serve(c, s.addr) })
		}
	})
	defer wg.Wait()
	defer ln.Close()
	t.Run("suite", func(t *testing.T) {
		rtuSuite(t, s, l, func(unit int) map[string]any {
			host, port, _ := net.SplitHostPort(ln.Addr().String())
			return map[string]any{"communicateMode": "RTU-over-TCP", "ip": host, "port": port, "slaveID": unit, "timeout": 200}
		})
	})
}

// Pain 2 on a line without numbers: a late answer of the same unit, function and
// length is never taken for the next request's, however late it is. While one is late further
// requests are asked, whose answers then come in a burst.
func TestPain02LateAnswerOnASerialLine(t *testing.T) {
	t.Parallel()
	for late, every := range map[time.Duration]int{420 * time.Millisecond: 4, 780 * time.Millisecond: 4, 2 * time.Second: 12, 4 * time.Second: 20} {
		t.Run(late.String(), func(t *testing.T) { t.Parallel(); lateOnASerialLine(t, late, every) })
	}
}

func lateOnASerialLine(t *testing.T, late time.Duration, every int) {
	s := newSlave(t)
	l, path, _ := newPort(t, s.addr)
	n := 0
	l.set(func(l *line) {
		l.fault = func(a []byte, send func([]byte)) {
			if n++; n%every == 0 {
				time.Sleep(late)
			}
			send(a)
		}
	})
	props := make([]prop, 5)
	for i := range props {
		s.set(1, codec.Holdings, i*200, uint16(1000+i))
		props[i] = prop{name: string(rune('a' + i)), typ: "INT", visitor: holding(i * 200), cycle: 20}
	}
	r := newRig(t)
	c := serialConfig(path, 1)
	c["timeout"], c["retries"], c["maxRegisters"] = 300, 2, 10
	r.apply("d", s.addr, c, props...)
	polltest.Within(t, 3*time.Minute, "values", func() bool { return r.sink.count("d", "e") > 6 })
	r.stop()
	for _, b := range r.sink.samples["d"] {
		for _, x := range b.Samples {
			if want := 1000 + int64(x.Property[0]-'a'); x.Quality == devices.Good && x.Value != devices.Int(want) {
				t.Fatalf("%s = %s, want %d", x.Property, x.Value, want)
			}
		}
	}
}

// Pain 2 across links: the reply to a request of a link that was replaced is never taken
// for that to the first request of the link that opens the port next.
func TestPain02LateAnswerOfAnEarlierLink(t *testing.T) {
	t.Parallel()
	s := newSlave(t)
	l, path, _ := newPort(t, s.addr)
	s.set(1, codec.Holdings, 0, 1000)
	s.set(1, codec.Holdings, 200, 2000)
	asked := make(chan struct{})
	once := sync.Once{}
	l.set(func(l *line) {
		l.fault = func(a []byte, send func([]byte)) {
			once.Do(func() { close(asked); time.Sleep(time.Second) }) // later than the next link waits
			send(a)
		}
	})
	r := newRig(t)
	r.apply("d", s.addr, serialConfig(path, 1), prop{name: "a", typ: "INT", visitor: holding(0), cycle: 20})
	select {
	case <-asked:
	case <-time.After(10 * time.Second):
		t.Fatal("no request")
	}
	r.apply("d", s.addr, serialConfig(path, 1), prop{name: "b", typ: "INT", visitor: holding(200), cycle: 20})
	polltest.Eventually(t, "values", func() bool { return r.sink.count("d", "b") > 3 })
	r.stop()
	for _, b := range r.sink.samples["d"] {
		for _, x := range b.Samples {
			if x.Property == "b" && x.Quality == devices.Good && x.Value != devices.Int(2000) {
				t.Fatalf("b = %s, want 2000", x.Value)
			}
		}
	}
}

// Pain 24: an adapter that is pulled out is noticed at once, without a busy loop, and
// used again when it is back under another number: its name by id counts.
func TestPain24RenumberedAdapterIsFoundByItsName(t *testing.T) {
	s := newSlave(t)
	_, path, master := newPort(t, s.addr)
	link := t.TempDir() + "/by-id"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	r.apply("d", s.addr, serialConfig(link, 1), one)
	polltest.Eventually(t, "online", func() bool { return r.sink.state("d") == v1beta1.StateOnline })
	_ = master.Close()
	polltest.Eventually(t, "offline", func() bool {
		st := r.sink.status("d")
		return st.State == v1beta1.StateOffline && st.Extensions.Data["reason"] == "LinkDown"
	})
	_, again, _ := newPort(t, s.addr)
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(again, link); err != nil {
		t.Fatal(err)
	}
	polltest.Eventually(t, "online again", func() bool { return r.sink.state("d") == v1beta1.StateOnline })
}

// One port with two baud rates cannot be: the second device says so.
func TestConflictingSerialSettings(t *testing.T) {
	t.Parallel()
	s := newSlave(t)
	_, path, _ := newPort(t, s.addr)
	r := newRig(t)
	r.apply("a", s.addr, serialConfig(path, 1), one)
	polltest.Eventually(t, "online", func() bool { return r.sink.state("a") == v1beta1.StateOnline })
	c := serialConfig(path, 2)
	c["baudRate"] = 9600
	r.apply("b", s.addr, c, one)
	polltest.Eventually(t, "offline", func() bool { return r.sink.state("b") == v1beta1.StateOffline })
	n := r.sink.count("a", "x")
	polltest.Eventually(t, "the first goes on", func() bool { return r.sink.count("a", "x") > n+3 })
	// Once both agree, both work.
	r.apply("a", s.addr, c, one)
	polltest.Eventually(t, "both", func() bool {
		return r.sink.state("a") == v1beta1.StateOnline && r.sink.state("b") == v1beta1.StateOnline
	})
}
