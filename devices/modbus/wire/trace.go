package wire

import (
	"encoding/hex"
	"fmt"
	"time"
)

const (
	// tracedFrames is the number of frames that a link remembers.
	tracedFrames = 8
	tracedBytes  = 260
)

// frames is a ring of the last frames sent and received. A frame received in several pieces
// is one entry. It belongs to one goroutine.
type frames struct {
	ring [tracedFrames]frame
	next int
}

// frame is one entry of the ring.
type frame struct {
	sent bool
	at   time.Time
	size int
	data [tracedBytes]byte
}

// add appends bytes that were sent or received.
func (f *frames) add(sent bool, at time.Time, b []byte) {
	last := &f.ring[(f.next+tracedFrames-1)%tracedFrames]
	if !sent && !last.at.IsZero() && !last.sent && last.size < tracedBytes {
		last.size += copy(last.data[last.size:], b)
		return
	}
	e := &f.ring[f.next%tracedFrames]
	f.next = (f.next + 1) % tracedFrames
	e.sent, e.at = sent, at
	e.size = copy(e.data[:], b)
}

// list returns the entries, oldest first.
func (f *frames) list() []fmt.Stringer {
	var out []fmt.Stringer
	for i := range tracedFrames {
		if e := f.ring[(f.next+i)%tracedFrames]; !e.at.IsZero() {
			out = append(out, e)
		}
	}
	return out
}

// String formats the time, the direction, and the bytes in hexadecimal.
func (f frame) String() string {
	arrow := "<"
	if f.sent {
		arrow = ">"
	}
	return f.at.Format("15:04:05.000000") + " " + arrow + " " + hex.EncodeToString(f.data[:f.size])
}
