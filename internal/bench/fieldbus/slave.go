package fieldbus

import (
	"fmt"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	server "github.com/simonvetter/modbus"
)

// writable is the first holding register that keeps what is written to it.
const writable = 60_000

// slave is a Modbus TCP slave of another library. Holding registers hold floats: at
// each even address one of two registers that is its address times 256 plus a count.
// Input registers hold 32-bit integers of unit, address and count.
type slave struct {
	addr string
	// turnaround is the delay of an answer.
	turnaround time.Duration
	// illegal reports whether an input register does not exist.
	illegal func(address int) bool

	requests atomic.Int64
	server   *server.ModbusServer

	mu   sync.Mutex
	kept map[uint16]uint16
}

func startSlave(turnaround time.Duration, illegal func(int) bool) (*slave, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("find a port: %w", err)
	}
	s := &slave{addr: l.Addr().String(), turnaround: turnaround, illegal: illegal, kept: map[uint16]uint16{}}
	if err := l.Close(); err != nil {
		return nil, fmt.Errorf("find a port: %w", err)
	}
	s.server, err = server.NewServer(&server.ServerConfiguration{URL: "tcp://" + s.addr, MaxClients: 2000}, s)
	if err != nil {
		return nil, fmt.Errorf("create slave: %w", err)
	}
	if err := s.server.Start(); err != nil {
		return nil, fmt.Errorf("start slave: %w", err)
	}
	return s, nil
}

func (s *slave) stop() error { return s.server.Stop() }

// count changes ten times a second.
func count() uint32 { return uint32(time.Now().UnixMilli()/100) & 0xff }

// HandleHoldingRegisters serves the floats, and keeps what is written from writable on.
func (s *slave) HandleHoldingRegisters(r *server.HoldingRegistersRequest) ([]uint16, error) {
	s.answer()
	if r.IsWrite {
		if int(r.Addr) < writable {
			return nil, server.ErrIllegalDataAddress
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for i, v := range r.Args {
			s.kept[r.Addr+uint16(i)] = v
		}
		return nil, nil
	}
	out := make([]uint16, r.Quantity)
	now := count()
	for i := range out {
		a := int(r.Addr) + i
		if a >= writable {
			s.mu.Lock()
			out[i] = s.kept[uint16(a)]
			s.mu.Unlock()
			continue
		}
		out[i] = half(math.Float32bits(float32(uint32(a&^1)<<8|now)), a)
	}
	return out, nil
}

// HandleInputRegisters serves the integers.
func (s *slave) HandleInputRegisters(r *server.InputRegistersRequest) ([]uint16, error) {
	s.answer()
	out := make([]uint16, r.Quantity)
	now := count()
	for i := range out {
		a := int(r.Addr) + i
		if s.illegal != nil && s.illegal(a) {
			return nil, server.ErrIllegalDataAddress
		}
		out[i] = half(integer(r.UnitId, a&^1, now), a)
	}
	return out, nil
}

func integer(unit uint8, address int, now uint32) uint32 {
	return uint32(unit)<<24 | uint32(address)<<8 | now
}

// half returns the high register of a value at an even address, the low one at an odd.
func half(v uint32, address int) uint16 {
	if address%2 == 0 {
		return uint16(v >> 16)
	}
	return uint16(v)
}

func (s *slave) answer() {
	s.requests.Add(1)
	if s.turnaround > 0 {
		time.Sleep(s.turnaround)
	}
}

// HandleCoils and HandleDiscreteInputs refuse: no plan has bits.
func (s *slave) HandleCoils(*server.CoilsRequest) ([]bool, error) {
	return nil, server.ErrIllegalFunction
}

// HandleDiscreteInputs refuses too.
func (s *slave) HandleDiscreteInputs(*server.DiscreteInputsRequest) ([]bool, error) {
	return nil, server.ErrIllegalFunction
}
