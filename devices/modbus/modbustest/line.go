package modbustest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/goburrow/modbus"
	"golang.org/x/sys/unix"
)

// LineConfig configures a Line.
type LineConfig struct {
	// Baud is the line's rate; a character has 11 bits.
	Baud int
	// Slave is the address of a Modbus TCP slave whose units are on the line.
	Slave string
	// Turnaround is the time that a unit takes before it replies, in addition to the silence
	// that ends a request.
	Turnaround time.Duration
	// Dead reports whether a unit does not reply; nil: all do.
	Dead func(unit byte) bool
}

// Line is a serial line on a pair of pseudo terminals. Every byte takes its time in
// both directions, and a request counts as ended only after 3.5 characters of silence
// (Modbus over Serial Line V1.02, 2.5.1.1).
type Line struct {
	config    LineConfig
	terminal  terminal
	slave     net.Conn
	done      chan struct{}
	character time.Duration
	silence   time.Duration

	requests  atomic.Int64
	early     atomic.Int64
	closeOnce sync.Once
}

const charBits = 11

// The functions whose requests have no data.
const (
	funcCodeReadExceptionStatus = 7
	funcCodeGetCommEventCounter = 11
	funcCodeReportServerID      = 17
)

// NewLine starts a line. The caller must close it.
func NewLine(c LineConfig) (*Line, error) {
	l := &Line{config: c, done: make(chan struct{}), character: charBits * time.Second / time.Duration(c.Baud)}
	l.silence = l.character * 7 / 2
	if c.Baud > 19200 {
		l.silence = 1750 * time.Microsecond
	}
	var err error
	if l.terminal, err = openTerminal(); err != nil {
		return nil, fmt.Errorf("open serial line: %w", err)
	}
	slave, err := net.Dial("tcp", c.Slave)
	if err != nil {
		_ = l.terminal.close() // the first error is returned
		return nil, fmt.Errorf("connect line to slave: %w", err)
	}
	l.slave = slave
	go l.serve()
	return l, nil
}

// Path returns the path of the serial port for the master.
func (l *Line) Path() string { return l.terminal.path }

// Requests returns the number of complete requests received.
func (l *Line) Requests() int64 { return l.requests.Load() }

// Early returns the number of requests that came before the line had been silent for the
// time that must lie between frames.
func (l *Line) Early() int64 { return l.early.Load() }

// Ideal returns the shortest time that reading n registers can take, from the start of one
// request to that of the next.
func (l *Line) Ideal(n int) time.Duration {
	return time.Duration(13+2*n)*l.character + 2*l.silence + l.config.Turnaround
}

// Close closes the line.
func (l *Line) Close() error {
	var err error
	l.closeOnce.Do(func() {
		err = errors.Join(l.terminal.close(), l.slave.Close())
		<-l.done
	})
	return err
}

// serve translates until the line is closed. Requests are found by their length, as
// a pseudo terminal hands them over faster than the line is.
func (l *Line) serve() {
	defer close(l.done)
	var buf []byte
	var free time.Time // when the last byte was over the line
	chunk := make([]byte, 512)
	for {
		n, err := l.terminal.far.Read(chunk)
		if err != nil {
			return
		}
		now := time.Now()
		if len(buf) == 0 && now.Before(free.Add(l.silence*9/10)) { // the clock of the master is not ours
			l.early.Add(1)
		}
		buf = append(buf, chunk[:n]...)
		free = later(now, free).Add(time.Duration(n) * l.character)
		size := requestLength(buf)
		if len(buf) < size {
			continue
		}
		answer, err := l.ask(buf[:size])
		if err != nil {
			return
		}
		buf = buf[:0]
		if len(answer) == 0 {
			continue
		}
		begin := later(free.Add(l.silence+l.config.Turnaround), time.Now())
		if free, err = l.play(answer, begin); err != nil {
			return
		}
	}
}

// requestLength returns the length of the request at the start of buf.
func requestLength(buf []byte) int {
	switch {
	case len(buf) > 6 && (buf[1] == modbus.FuncCodeWriteMultipleCoils || buf[1] == modbus.FuncCodeWriteMultipleRegisters):
		return 9 + int(buf[6])
	case len(buf) > 1 && buf[1] == modbus.FuncCodeMaskWriteRegister:
		return 10
	case len(buf) > 1 && slices.Contains([]byte{funcCodeReadExceptionStatus, funcCodeGetCommEventCounter, funcCodeReportServerID}, buf[1]):
		return 4
	default:
		return 8
	}
}

// ask forwards a request to the slave. It returns no bytes if there is no reply.
func (l *Line) ask(request []byte) ([]byte, error) {
	h := modbus.NewRTUClientHandler("")
	h.SlaveId = request[0]
	pdu, err := h.Decode(request)
	if err != nil {
		return nil, nil // a damaged request is not answered
	}
	l.requests.Add(1)
	if l.config.Dead != nil && l.config.Dead(request[0]) {
		return nil, nil
	}
	adu := binary.BigEndian.AppendUint16([]byte{0, 1, 0, 0}, uint16(2+len(pdu.Data)))
	adu = append(adu, request[0], pdu.FunctionCode)
	if _, err := l.slave.Write(append(adu, pdu.Data...)); err != nil {
		return nil, err
	}
	var head [6]byte
	if _, err := io.ReadFull(l.slave, head[:]); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint16(head[4:]))
	if _, err := io.ReadFull(l.slave, body); err != nil {
		return nil, err
	}
	if request[0] == 0 {
		return nil, nil // no unit replies to a broadcast
	}
	return h.Encode(&modbus.ProtocolDataUnit{FunctionCode: body[1], Data: body[2:]})
}

// play sends bytes at the line's pace and returns when the last one is over.
func (l *Line) play(b []byte, begin time.Time) (time.Time, error) {
	for i := 0; i < len(b); {
		sleepUntil(begin.Add(time.Duration(i+1) * l.character))
		due := int(time.Since(begin) / l.character)
		n := min(max(due, i+1), len(b))
		if _, err := l.terminal.far.Write(b[i:n]); err != nil {
			return time.Time{}, err
		}
		i = n
	}
	return begin.Add(time.Duration(len(b)) * l.character), nil
}

// sleepUntil is more precise than the runtime's timers, which matters at high rates.
func sleepUntil(t time.Time) {
	for {
		rest := time.Until(t)
		if rest <= 0 {
			return
		}
		ts := unix.NsecToTimespec(int64(rest))
		_ = unix.Nanosleep(&ts, nil) // an interruption is made up for
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
