package report

import "sync/atomic"

// roomSamples bounds the samples that wait for the sink, of all devices: 90 bytes each with what they
// need, so that a gateway whose disk is full does not run out of memory as well.
const roomSamples = 250_000

// Room is the room for the samples of all devices that wait for the sink. A device whose samples find
// none gives up its oldest.
type Room struct{ waiting atomic.Int64 }

func (r *Room) add(samples int) { r.waiting.Add(int64(samples)) }

func (r *Room) full() bool { return r.waiting.Load() > roomSamples }
