package modbus

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus/codec"
)

// point is a property of a device: where it is, and how and when to read and write it.
type point struct {
	codec.Point
	index int // in the definition
	name  string
	cycle time.Duration
	// verify is set if the point can be read, so that writes are read back.
	verify    bool
	readDelay time.Duration
}

// parsePoint reads a property's visitor settings: those of codec.Read, and
//
//	readBack true            false for what can only be written: it is neither polled nor read
//	                         back
//	readBackDelay 0          ms between a write and its read-back
func parsePoint(i int, p devices.Point, dev settings) (point, error) {
	r := p.Visitor.Read()
	out := readPoint(r, i, p, dev)
	return out, r.Err()
}

func readPoint(r *devices.Reader, i int, p devices.Point, dev settings) point {
	out := point{
		index: i, name: p.Name, cycle: p.Cycle, verify: r.Bool(true, "readBack"),
		readDelay: time.Duration(r.Int(0, 0, 10_000, "readBackDelay")) * time.Millisecond,
	}
	out.Point = codec.Read(r, p, dev.points)
	need := out.Count
	switch {
	case out.Table == codec.Coils && dev.coilsFromZero:
		need = out.End()
	case dev.SingleRegisters && !out.Table.Bits():
		need = 1
	}
	if most := dev.limits().Of(out.Table); need > most {
		r.Fail("limit", fmt.Sprintf("%d is more than one request may have (%d)", need, most))
	}
	if forbidden, _ := codec.ParseRanges(dev.forbidden); out.Sparse() {
		for _, f := range forbidden {
			if f.Table == out.Table && f.Start < out.End() && out.Address < f.End {
				r.Fail("registers, scaleRegister, checkRegister", fmt.Sprintf("are read as %s, which includes the forbidden %s", out.Range(), f))
			}
		}
	}
	if dev.broadcasts() {
		out.verify = false
		if !p.Writable {
			r.Fail("slaveID", "0 is the broadcast, which can only be written")
		}
	}
	return out
}

// valueAndText decodes the point's data into a value and its string form. Both are empty
// if it holds no value.
func (p *point) valueAndText(data []byte) (devices.Value, string) {
	v, err := p.Decode(data, p.Address)
	if err != nil {
		return devices.Value{}, ""
	}
	return v, v.String()
}

// registers returns the point's registers or bits in the data of a request.
func (p *point) registers(data []byte, start int) []uint16 {
	var out []uint16
	for i := p.Address - start; i < p.Address-start+p.Count; i++ {
		if p.Table.Bits() {
			out = append(out, uint16(data[i/8]>>(i%8)&1))
			continue
		}
		out = append(out, binary.BigEndian.Uint16(data[2*i:]))
	}
	return out
}
