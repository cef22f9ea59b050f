package replicate

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/streams"
)

// TestOldTombstonesAreForgotten bounds what the replicator remembers.
func TestOldTombstonesAreForgotten(t *testing.T) {
	b := tombstoneIndex{bySubject: map[string]tombstone{}}
	now := time.Unix(1_700_000_000, 0)
	for i := range 100_000 {
		now = now.Add(time.Minute) // 1,440 a day
		h := nats.Header{streams.HeaderOp: {string(streams.OpDelete)}}
		b.record(fmt.Sprint(i), h, now)
	}
	if n := len(b.bySubject); n < 1440 || n > 2*1440+101 {
		t.Errorf("%d tombstones are remembered, want those of a day, and at most that many old ones", n)
	}
}
