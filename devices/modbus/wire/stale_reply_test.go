package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goburrow/modbus"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices/modbus/modbustest"
)

// firstIllegal is the first register that a slowUnit does not have.
const firstIllegal = 3000

// slowUnit replies to requests in order, but holds replies back until further requests came,
// and then sends them all at once. Registers hold their address. Of functions it knows 3 and 6.
type slowUnit struct {
	endpoint Endpoint
	port     io.ReadWriter
	requests atomic.Int64
	written  [1 << 16]atomic.Bool
}

// serve replies until the port closes. Hold returns for how many further requests the reply to
// one is held back.
func (s *slowUnit) serve(hold func() int) {
	var replies []byte
	held := 0
	for {
		pdu, err := readRequest(s.port)
		if err != nil {
			return
		}
		s.requests.Add(1)
		replies = append(replies, rtuFrame(1, s.reply(pdu))...)
		if held == 0 {
			held = hold()
		} else {
			held--
		}
		if held > 0 {
			continue
		}
		if s.send(replies) != nil {
			return
		}
		replies = nil
	}
}

func (s *slowUnit) send(b []byte) error {
	_, err := s.port.Write(b)
	return err
}

func readRequest(port io.Reader) ([]byte, error) {
	frame := make([]byte, 8)
	if _, err := io.ReadFull(port, frame[:4]); err != nil {
		return nil, err
	}
	if checksumOK(frame[:4]) {
		return frame[1:2], nil
	}
	if _, err := io.ReadFull(port, frame[4:]); err != nil {
		return nil, err
	}
	return frame[1:6], nil
}

func (s *slowUnit) reply(pdu []byte) []byte {
	switch pdu[0] {
	case modbus.FuncCodeWriteSingleRegister:
		s.written[binary.BigEndian.Uint16(pdu[3:])].Store(true)
		return pdu
	case modbus.FuncCodeReadHoldingRegisters:
		start, count := binary.BigEndian.Uint16(pdu[1:]), binary.BigEndian.Uint16(pdu[3:])
		if start >= firstIllegal {
			return []byte{pdu[0] | 0x80, modbus.ExceptionCodeIllegalDataAddress}
		}
		return append([]byte{pdu[0], byte(2 * count)}, registers(start, count)...)
	default:
		return []byte{pdu[0] | 0x80, modbus.ExceptionCodeIllegalFunction}
	}
}

func registers(start, count uint16) []byte {
	var b []byte
	for i := range count {
		b = binary.BigEndian.AppendUint16(b, start+i)
	}
	return b
}

func newSlowUnit(t *testing.T, hold func() int) (*slowUnit, *Transport) {
	t.Helper()
	p, err := modbustest.NewPair()
	if err != nil {
		t.Fatal(err)
	}
	serial := Serial{Baud: 115200, DataBits: 8, StopBits: 1, Parity: "none"}
	far, err := openSerial(p.B, serial)
	if err != nil {
		t.Fatal(err)
	}
	unit := &slowUnit{port: far, endpoint: Endpoint{Mode: RTU, Address: p.A, Serial: serial}}
	done := make(chan struct{})
	go func() { defer close(done); unit.serve(hold) }()
	port := New(unit.endpoint, &Unanswered{}, zap.NewNop())
	if err := port.Open(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { port.Close(); _ = far.Close(); <-done; _ = p.Close() })
	return unit, port
}

// However many replies are late, and however late they are: none is taken for that to another
// request, be it a read, a read that the unit refuses, or a write.
func TestLateRepliesInBursts(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			slave := rand.New(rand.NewPCG(seed, 0))
			unit, port := newSlowUnit(t, func() int { return max(slave.IntN(8)-5, 0) })
			port.Options = Options{Timeout: 40 * time.Millisecond, MaxTimeout: 40 * time.Millisecond}
			master := rand.New(rand.NewPCG(seed, 1))
			for n, good := uint16(1), 0; good < 40; n++ {
				if randomRequest(t, master, unit, port, n) {
					good++
				}
			}
		})
	}
}

// randomRequest sends one request and compares its result with the unit's registers. It returns false
// if no reply came.
func randomRequest(t *testing.T, random *rand.Rand, unit *slowUnit, port *Transport, n uint16) bool {
	t.Helper()
	var err error
	if random.IntN(4) == 0 {
		_, err = port.Unit(1).WriteSingleRegister(uint16(random.IntN(3)), n)
		if err == nil && !unit.written[n].Load() {
			t.Fatalf("write %d is acknowledged before the unit has it", n)
		}
	} else {
		start, count := uint16(random.IntN(firstIllegal*5/4)), uint16(1+max(random.IntN(6)-3, 0))
		var got []byte
		got, err = port.Unit(1).ReadHoldingRegisters(start, count)
		var exception *modbus.ModbusError
		refused := errors.As(err, &exception)
		if err == nil && !bytes.Equal(got, registers(start, count)) || err == nil && start >= firstIllegal || refused && start < firstIllegal {
			t.Fatalf("%d registers from %d: %x, %v", count, start, got, err)
		}
		if refused {
			err = nil
		}
	}
	if err != nil && !errors.Is(err, ErrTimeout) {
		t.Fatal(err)
	}
	if err != nil {
		time.Sleep(port.Timeout) // nothing is sent while no request can be told from those before
	}
	return err == nil
}

// As long as every reply comes, nothing but the requests is sent.
func TestNoMarkerWithoutATimeout(t *testing.T) {
	unit, port := newSlowUnit(t, func() int { return 0 })
	port.Options = Options{Timeout: time.Minute, MaxTimeout: time.Millisecond}
	for i := range uint16(50) {
		if _, err := port.Unit(1).ReadHoldingRegisters(i, 1); err != nil {
			t.Fatal(err)
		}
	}
	if n := unit.requests.Load(); n != 50 {
		t.Errorf("%d requests for 50 reads", n)
	}
}

// A write waits until it is known that its echo is no late one.
func TestWriteIsNotSentBehindLateReplies(t *testing.T) {
	unit, port := newSlowUnit(t, func() int { return 1000 })
	port.Options = Options{Timeout: 10 * time.Millisecond, MaxTimeout: 10 * time.Millisecond}
	for i := range uint16(10) {
		if _, err := port.Unit(1).WriteSingleRegister(7, 100+i); !errors.Is(err, ErrTimeout) {
			t.Fatal(err)
		}
	}
	// The first write and the three markers.
	if n := unit.requests.Load(); n != 4 || port.Written() != 1 || !unit.written[100].Load() || unit.written[101].Load() {
		t.Errorf("%d requests, of which %d are said to be writes, first write %v, second %v", n, port.Written(), unit.written[100].Load(), unit.written[101].Load())
	}
}

func TestMarkersAreToldFromLateReplies(t *testing.T) {
	for name, request := range map[string][]byte{
		"register": {3, 0, 1, 0, 1}, "registers": {4, 0, 1, 0, 5}, "bit": {1, 0, 1, 0, 1}, "bits": {2, 0, 1, 0, 20}, "write": {6, 0, 1, 0, 1},
		"identification": {funcCodeEncapsulated, meiIdentification, 1, 0},
	} {
		frame := rtuFrame(9, request)
		owed := []shape{replyShape(frame)}
		for marker := markerFor(frame, owed); marker != nil; marker = markerFor(frame, owed) {
			if s := replyShape(marker); slices.Contains(owed, s) || marker[0] != 9 || isWrite(marker[1]) {
				t.Fatalf("%s: marker % x, owed %v", name, marker, owed)
			} else {
				owed = append(owed, s)
			}
			if read := marker[1:]; isRead(marker[1]) && (read[0] != request[0] || !bytes.Equal(read[1:3], request[1:3]) || binary.BigEndian.Uint16(read[3:]) >= binary.BigEndian.Uint16(request[3:])) {
				t.Fatalf("%s: % x is no part of the read", name, marker)
			}
		}
		if want := map[string]int{"registers": 3, "bits": 2}[name] + 4; len(owed) != want {
			t.Errorf("%s: %d shapes, want %d", name, len(owed), want)
		}
	}
}

func TestUnansweredRequestsAreForgotten(t *testing.T) {
	var u Unanswered
	begin := time.Unix(0, 0)
	end := begin.Add(time.Second)
	u.add(1, shape{3, 4}, begin, end, 500*time.Millisecond)
	u.add(1, shape{4, 4}, begin, end.Add(time.Second), 5*time.Second)
	u.add(2, shape{3, 4}, begin, end, time.Second)
	if owed, until := u.of(1, end.Add(latest-1)); len(owed) != 2 || until != end.Add(6*time.Second) {
		t.Errorf("owed %v, until %s", owed, until)
	}
	if owed, _ := u.of(1, end.Add(latest)); !slices.Equal(owed, []shape{{4, 4}}) {
		t.Errorf("owed %v after %s", owed, latest)
	}
	if owed, _ := u.of(1, end.Add(16*time.Second)); owed != nil {
		t.Errorf("owed %v after three timeouts", owed)
	}
	if u.clear(2); u.units[2] != nil {
		t.Error("not cleared")
	}
}
