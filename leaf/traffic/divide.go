package traffic

import (
	"github.com/petiole-io/petiole/streams/traffic"
)

// divide divides what the connection carried in one direction among the kinds of messages, which are
// counted before compression. The result adds up to wire. If the connection carried more than the
// messages, the rest is protocol. If it carried less, because it compresses, each kind has its share.
func divide(messages map[string]uint64, wire uint64) map[string]uint64 {
	sum := uint64(0)
	for _, n := range messages {
		sum += n
	}
	out, left := map[string]uint64{}, wire
	for kind, n := range messages {
		if n == 0 {
			continue
		}
		if sum > wire {
			n = uint64(float64(wire) * (float64(n) / float64(sum)))
		}
		n = min(n, left)
		out[kind], left = n, left-n
	}
	if left > 0 {
		out[traffic.Protocol] = left
	}
	return out
}
