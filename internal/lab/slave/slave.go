// Package slave is the lab's Modbus TCP slave. Its protocol is
// github.com/simonvetter/modbus's, not ours, so that the driver is never tested against
// its own codec.
//
// All four tables have the addresses 0 to 9999, the same for every unit id. Input
// register 0 counts the seconds since the start; input register 1 is 215, for example
// 21.5 degrees; discrete inputs are on at odd addresses; all else is 0 until it is
// written. Each write is in the write log before it is answered.
package slave

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/simonvetter/modbus"
)

const (
	size        = 10000
	temperature = 215

	maxClients = 100
	// idleTimeout is the time after which a connection without requests is closed. Masters keep
	// theirs open, so it is longer than any test.
	idleTimeout = 24 * time.Hour
)

// Write is one line of the write log.
type Write struct {
	Time time.Time `json:"time"`
	// Table is "coils" or "holding".
	Table   string `json:"table"`
	Address int    `json:"address"`
	// Values of coils are 0 and 1.
	Values []int `json:"values"`
}

// Run serves on address, a host and port, until ctx is done. It appends each write of a
// master to the file writeLog as a line of JSON. It returns an error if it cannot listen
// or open the file.
func Run(ctx context.Context, address, writeLog string) (err error) {
	log, err := os.OpenFile(writeLog, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open write log: %w", err)
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	server, err := modbus.NewServer(&modbus.ServerConfiguration{
		URL: "tcp://" + address, MaxClients: maxClients, Timeout: idleTimeout,
	}, &tables{started: time.Now(), log: log})
	if err != nil {
		return fmt.Errorf("create Modbus slave: %w", err)
	}
	if err := server.Start(); err != nil {
		return fmt.Errorf("start Modbus slave: %w", err)
	}
	<-ctx.Done()
	return server.Stop()
}

// tables answers the requests. The server calls it from one goroutine a connection.
type tables struct {
	started time.Time

	mu      sync.Mutex
	log     *os.File
	coils   [size]bool
	holding [size]uint16
}

// HandleCoils serves functions 1, 5 and 15.
func (t *tables) HandleCoils(r *modbus.CoilsRequest) ([]bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, err := span(r.Addr, r.Quantity)
	if err != nil {
		return nil, err
	}
	if !r.IsWrite {
		return slices.Clone(t.coils[at.from:at.to]), nil
	}
	values := make([]int, len(r.Args))
	for i, on := range r.Args {
		if on {
			values[i] = 1
		}
	}
	if err := t.record("coils", at, values); err != nil {
		return nil, err
	}
	copy(t.coils[at.from:at.to], r.Args)
	return nil, nil
}

// HandleHoldingRegisters serves functions 3, 6 and 16.
func (t *tables) HandleHoldingRegisters(r *modbus.HoldingRegistersRequest) ([]uint16, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, err := span(r.Addr, r.Quantity)
	if err != nil {
		return nil, err
	}
	if !r.IsWrite {
		return slices.Clone(t.holding[at.from:at.to]), nil
	}
	values := make([]int, len(r.Args))
	for i, v := range r.Args {
		values[i] = int(v)
	}
	if err := t.record("holding", at, values); err != nil {
		return nil, err
	}
	copy(t.holding[at.from:at.to], r.Args)
	return nil, nil
}

// HandleDiscreteInputs serves function 2.
func (t *tables) HandleDiscreteInputs(r *modbus.DiscreteInputsRequest) ([]bool, error) {
	at, err := span(r.Addr, r.Quantity)
	if err != nil {
		return nil, err
	}
	on := make([]bool, r.Quantity)
	for i := range on {
		on[i] = (at.from+i)%2 == 1
	}
	return on, nil
}

// HandleInputRegisters serves function 4.
func (t *tables) HandleInputRegisters(r *modbus.InputRegistersRequest) ([]uint16, error) {
	at, err := span(r.Addr, r.Quantity)
	if err != nil {
		return nil, err
	}
	values := make([]uint16, r.Quantity)
	for i := range values {
		switch at.from + i {
		case 0:
			values[i] = uint16(time.Since(t.started) / time.Second) // wraps at 65536, after 18 hours
		case 1:
			values[i] = temperature
		}
	}
	return values, nil
}

// record puts a write into the log. A write that cannot be recorded is refused.
func (t *tables) record(table string, at addresses, values []int) error {
	line, err := json.Marshal(Write{Time: time.Now().UTC(), Table: table, Address: at.from, Values: values})
	if err == nil {
		_, err = t.log.Write(append(line, '\n'))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "refuse a write that cannot be recorded:", err)
		return modbus.ErrServerDeviceFailure
	}
	return nil
}

// addresses returns the addresses from from up to, not including, to.
type addresses struct{ from, to int }

func span(from, quantity uint16) (addresses, error) {
	a := addresses{int(from), int(from) + int(quantity)}
	if a.to > size {
		return a, modbus.ErrIllegalDataAddress
	}
	return a, nil
}
