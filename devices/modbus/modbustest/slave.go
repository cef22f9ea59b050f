package modbustest

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/simonvetter/modbus"
)

// Config configures a Slave.
type Config struct {
	// Address to listen at; empty: a free port of loopback.
	Address string
	// Layout fills the registers that were not written.
	Layout Layout
	// Turnaround is the time before every reply.
	Turnaround time.Duration
	// MaxRegisters in one request; zero: no bound.
	MaxRegisters int
	// Illegal reports whether a request that touches a register is refused; nil: none.
	Illegal func(unit byte, address uint16) bool
	// MaxClients bounds the accepted connections; zero: 100.
	MaxClients uint
}

// Slave is a Modbus TCP slave with all units, whose holding and input registers prove
// what was read and whose coils and discrete inputs are on at odd addresses. Holding
// registers and coils keep what is written to them. Its counter goes up with every
// request.
type Slave struct {
	config   Config
	addr     string
	server   *modbus.ModbusServer
	count    atomic.Uint32
	requests atomic.Int64

	mu      sync.Mutex
	written map[place]uint16
	onWrite func(unit byte, address uint16, value uint16)
}

type place struct {
	coil    bool
	unit    byte
	address uint16
}

// NewSlave starts a slave. The caller must close it.
func NewSlave(c Config) (*Slave, error) {
	if c.Address == "" {
		addr, err := freeAddress()
		if err != nil {
			return nil, err
		}
		c.Address = addr
	}
	if c.MaxClients == 0 {
		c.MaxClients = 100
	}
	s := &Slave{config: c, addr: c.Address, written: map[place]uint16{}}
	var err error
	s.server, err = modbus.NewServer(&modbus.ServerConfiguration{URL: "tcp://" + c.Address, MaxClients: c.MaxClients, Timeout: time.Hour}, s)
	if err == nil {
		err = s.server.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start slave at %s: %w", c.Address, err)
	}
	return s, nil
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// Close stops the slave.
func (s *Slave) Close() error { return s.server.Stop() }

// Addr returns host:port.
func (s *Slave) Addr() string { return s.addr }

// Count returns the counter that registers have now.
func (s *Slave) Count() uint16 { return uint16(s.count.Load()) }

// Requests returns the number of requests served.
func (s *Slave) Requests() int64 { return s.requests.Load() }

// OnWrite sets a function that is called for every register or coil written. It must not
// block.
func (s *Slave) OnWrite(f func(unit byte, address uint16, value uint16)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onWrite = f
}

// HandleHoldingRegisters serves functions 3, 6 and 16.
func (s *Slave) HandleHoldingRegisters(r *modbus.HoldingRegistersRequest) ([]uint16, error) {
	if r.IsWrite {
		s.write(false, r.UnitId, r.Addr, r.Args)
	}
	return s.registers(r.UnitId, r.Addr, r.Quantity, true)
}

// HandleInputRegisters serves function 4.
func (s *Slave) HandleInputRegisters(r *modbus.InputRegistersRequest) ([]uint16, error) {
	return s.registers(r.UnitId, r.Addr, r.Quantity, false)
}

// HandleCoils serves functions 1, 5 and 15.
func (s *Slave) HandleCoils(r *modbus.CoilsRequest) ([]bool, error) {
	if r.IsWrite {
		values := make([]uint16, len(r.Args))
		for i, on := range r.Args {
			if on {
				values[i] = 1
			}
		}
		s.write(true, r.UnitId, r.Addr, values)
	}
	return s.bits(r.UnitId, r.Addr, r.Quantity, true)
}

// HandleDiscreteInputs serves function 2.
func (s *Slave) HandleDiscreteInputs(r *modbus.DiscreteInputsRequest) ([]bool, error) {
	return s.bits(r.UnitId, r.Addr, r.Quantity, false)
}

func (s *Slave) registers(unit byte, start, n uint16, holding bool) ([]uint16, error) {
	count, err := s.begin(unit, start, n)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]uint16, n)
	for i := range out {
		at := start + uint16(i)
		out[i] = s.config.Layout.fill(unit, at, count)
		if !holding || len(s.written) == 0 {
			continue
		}
		if v, ok := s.written[place{unit: unit, address: at}]; ok {
			out[i] = v
		}
	}
	return out, nil
}

func (s *Slave) bits(unit byte, start, n uint16, coils bool) ([]bool, error) {
	if _, err := s.begin(unit, start, 0); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]bool, n)
	for i := range out {
		at := start + uint16(i)
		out[i] = at%2 == 1
		if v, ok := s.written[place{coil: true, unit: unit, address: at}]; ok && coils {
			out[i] = v == 1
		}
	}
	return out, nil
}

// begin counts a request, takes the slave's time, and checks the range.
func (s *Slave) begin(unit byte, start, n uint16) (uint16, error) {
	s.requests.Add(1)
	count := uint16(s.count.Add(1))
	if s.config.Turnaround > 0 {
		time.Sleep(s.config.Turnaround)
	}
	if s.config.MaxRegisters > 0 && int(n) > s.config.MaxRegisters {
		return 0, modbus.ErrIllegalDataValue
	}
	if s.config.Illegal != nil {
		for i := range n {
			if s.config.Illegal(unit, start+i) {
				return 0, modbus.ErrIllegalDataAddress
			}
		}
	}
	return count, nil
}

func (s *Slave) write(coil bool, unit byte, start uint16, values []uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, v := range values {
		at := start + uint16(i)
		s.written[place{coil, unit, at}] = v
		if s.onWrite != nil {
			s.onWrite(unit, at, v)
		}
	}
}
