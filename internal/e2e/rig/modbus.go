package rig

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/petiole-io/petiole/internal/lab/slave"
)

// Slave is the site's Modbus slave as an independent master sees it: one connection
// for each request, unit 1.
type Slave struct {
	site *Site
	addr string
}

const (
	readHolding  = 3
	writeHolding = 6
	unitID       = 1
)

// Read returns one holding register.
func (s Slave) Read(ctx context.Context, register uint16) (uint16, error) {
	answer, err := s.request(ctx, readHolding, register, 1)
	if err != nil {
		return 0, fmt.Errorf("read holding register %d: %w", register, err)
	}
	if len(answer) != 3 || answer[0] != 2 {
		return 0, fmt.Errorf("read holding register %d: answer is % x", register, answer)
	}
	return binary.BigEndian.Uint16(answer[1:]), nil
}

// Write sets one holding register.
func (s Slave) Write(ctx context.Context, register, value uint16) error {
	if _, err := s.request(ctx, writeHolding, register, value); err != nil {
		return fmt.Errorf("write holding register %d: %w", register, err)
	}
	return nil
}

// request makes one transaction (Modbus Messaging on TCP/IP, 3.1) and returns the
// answer behind its function code.
func (s Slave) request(ctx context.Context, function byte, a, b uint16) ([]byte, error) {
	conn, err := s.site.Dial(ctx, "tcp", s.addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return nil, err
	}
	frame := []byte{0, 1, 0, 0, 0, 6, unitID, function}
	frame = binary.BigEndian.AppendUint16(frame, a)
	frame = binary.BigEndian.AppendUint16(frame, b)
	if _, err := conn.Write(frame); err != nil {
		return nil, err
	}
	return readAnswer(conn, function)
}

func readAnswer(conn net.Conn, function byte) ([]byte, error) {
	var header [8]byte
	if _, err := io.ReadFull(conn, header[:]); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint16(header[4:])) - 2
	if size < 1 || size > 252 {
		return nil, fmt.Errorf("length field says %d", size+2)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(conn, body); err != nil {
		return nil, err
	}
	switch header[7] {
	case function:
		return body, nil
	case function | 0x80:
		return nil, fmt.Errorf("exception %d", body[0])
	}
	return nil, errors.New("another function's answer")
}

// Writes are the writes to a holding register since a time, by the slave's log.
func (s Slave) Writes(register int, since time.Time) ([]slave.Write, error) {
	f, err := os.Open(s.site.rig.slaveWritesFile(s.site.Name))
	if err != nil {
		return nil, fmt.Errorf("read the slave's log: %w", err)
	}
	defer f.Close()
	var found []slave.Write
	for lines := bufio.NewScanner(f); ; {
		if !lines.Scan() {
			return found, lines.Err()
		}
		var w slave.Write
		if err := json.Unmarshal(lines.Bytes(), &w); err != nil {
			return nil, fmt.Errorf("read the slave's log: %w", err)
		}
		if w.Table == "holding" && w.Address == register && w.Time.After(since) {
			found = append(found, w)
		}
	}
}
