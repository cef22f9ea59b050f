package report

import (
	"testing"
	"time"

	"go.uber.org/zap/zaptest"
	"pgregory.net/rapid"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/internal/stats"
	"github.com/petiole-io/petiole/internal/logonce"
)

// The outbox drops the oldest samples, reports how many, and never drops an audit.
func TestOutboxDropsOldestSamples(t *testing.T) {
	o := newOutbox(nil, 0, stats.New(), logonce.New(zaptest.NewLogger(t)), zaptest.NewLogger(t))
	o.put(&devices.Audit{RecordNumber: devices.RecordNumber{Sequence: 1}})
	for i := range outboxSamples + 10 {
		o.put(&devices.Samples{RecordNumber: devices.RecordNumber{Sequence: uint64(i + 1)}})
	}
	if a, ok := o.pop().(*devices.Audit); !ok || a.Sequence != 1 {
		t.Fatal("audit")
	}
	if s := o.pop().(*devices.Samples); s.Sequence != 11 || s.Dropped != 10 {
		t.Fatal(s)
	}
}

// Lost batches are counted.
func TestDroppedBatchesAreCounted(t *testing.T) {
	counters := stats.New()
	o := newOutbox(nil, 0, counters, logonce.New(zaptest.NewLogger(t)), zaptest.NewLogger(t))
	for i := range outboxSamples + 3 {
		o.put(&devices.Samples{RecordNumber: devices.RecordNumber{Sequence: uint64(i + 1)}})
	}
	if got := counters.Snapshot().DroppedBatches; got != 3 {
		t.Fatal(got)
	}
}

// Flapping does not flood the API server with events.
func TestEventLimiter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.UnixMilli(0)
		q := newEventLimiter(now)
		told, skipped := 0, 0
		for range rapid.IntRange(1, 300).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "pause")) * time.Millisecond)
			before, ok := q.allow(now)
			if !ok {
				skipped++
				continue
			}
			if before != skipped {
				t.Fatalf("%d were suppressed, %d are reported", skipped, before)
			}
			told, skipped = told+1, 0
		}
		if most := eventBurst + int(now.Sub(time.UnixMilli(0))/eventRefill) + 1; told > most {
			t.Fatalf("%d events, at most %d", told, most)
		}
	})
}
