package modbus

import (
	"fmt"
	"sync"
	"testing"

	server "github.com/simonvetter/modbus"

	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/internal/porttest"
)

// request is one request as the slave saw it.
type request struct {
	unit         byte
	table        codec.Table
	start, count int
	write        bool
}

// slave is a Modbus TCP slave that is not our code (github.com/simonvetter/modbus),
// with registers that tests set and look at.
type slave struct {
	addr string

	mu       sync.Mutex
	regs     map[byte]map[codec.Table][]uint16
	holes    map[codec.Table]map[int]bool // illegal addresses
	most     int                          // registers in one request, 0: no bound
	fail     map[byte]error
	log      []request
	onWrite  func(unit byte, start int, values []uint16) []uint16
	writable bool
}

func newSlave(t testing.TB) *slave {
	t.Helper()
	s := &slave{regs: map[byte]map[codec.Table][]uint16{}, holes: map[codec.Table]map[int]bool{}, fail: map[byte]error{}, writable: true}
	s.addr = porttest.Addr(t)
	s.start(t, s.addr)
	return s
}

func (s *slave) start(t testing.TB, addr string) *server.ModbusServer {
	t.Helper()
	srv, err := server.NewServer(&server.ServerConfiguration{URL: "tcp://" + addr, MaxClients: 50}, s)
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Stop() })
	return srv
}

func (s *slave) set(unit byte, t codec.Table, start int, values ...uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	copy(s.table(unit, t)[start:], values)
}

func (s *slave) get(unit byte, t codec.Table, at int) uint16 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table(unit, t)[at]
}

func (s *slave) hole(t codec.Table, from, to int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holes[t] == nil {
		s.holes[t] = map[int]bool{}
	}
	for i := from; i < to; i++ {
		s.holes[t][i] = true
	}
}

func (s *slave) setFail(unit byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail[unit] = err
}

// requests returns what was asked since the last call.
func (s *slave) requests() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.log
	s.log = nil
	return l
}

func (s *slave) writes() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.log {
		if r.write {
			n++
		}
	}
	return n
}

func (s *slave) table(unit byte, t codec.Table) []uint16 {
	if s.regs[unit] == nil {
		s.regs[unit] = map[codec.Table][]uint16{}
	}
	if s.regs[unit][t] == nil {
		s.regs[unit][t] = make([]uint16, 65536)
	}
	return s.regs[unit][t]
}

func (s *slave) handle(unit byte, t codec.Table, start, count int, write []uint16) ([]uint16, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, request{unit, t, start, count, write != nil})
	if err := s.fail[unit]; err != nil {
		return nil, err
	}
	if s.most > 0 && count > s.most {
		return nil, server.ErrIllegalDataValue
	}
	for i := start; i < start+count; i++ {
		if s.holes[t][i] {
			return nil, server.ErrIllegalDataAddress
		}
	}
	regs := s.table(unit, t)
	if write != nil {
		if s.onWrite != nil {
			write = s.onWrite(unit, start, write)
		}
		copy(regs[start:], write)
	}
	return append([]uint16(nil), regs[start:start+count]...), nil
}

func (s *slave) bools(unit byte, t codec.Table, start, count int, write []bool) ([]bool, error) {
	var w []uint16
	for _, b := range write {
		v := uint16(0)
		if b {
			v = 1
		}
		w = append(w, v)
	}
	regs, err := s.handle(unit, t, start, count, w)
	out := make([]bool, len(regs))
	for i, r := range regs {
		out[i] = r != 0
	}
	return out, err
}

func (s *slave) HandleCoils(r *server.CoilsRequest) ([]bool, error) {
	var w []bool
	if r.IsWrite {
		w = r.Args
	}
	return s.bools(r.UnitId, codec.Coils, int(r.Addr), int(r.Quantity), w)
}

func (s *slave) HandleDiscreteInputs(r *server.DiscreteInputsRequest) ([]bool, error) {
	return s.bools(r.UnitId, codec.Discretes, int(r.Addr), int(r.Quantity), nil)
}

func (s *slave) HandleHoldingRegisters(r *server.HoldingRegistersRequest) ([]uint16, error) {
	var w []uint16
	if r.IsWrite {
		w = r.Args
	}
	return s.handle(r.UnitId, codec.Holdings, int(r.Addr), int(r.Quantity), w)
}

func (s *slave) HandleInputRegisters(r *server.InputRegistersRequest) ([]uint16, error) {
	return s.handle(r.UnitId, codec.Inputs, int(r.Addr), int(r.Quantity), nil)
}

func (r request) String() string {
	return fmt.Sprintf("unit %d %s [%d,%d) write=%v", r.unit, r.table, r.start, r.start+r.count, r.write)
}
