package report

import (
	"testing"
	"time"

	"go.uber.org/zap/zaptest"
	"pgregory.net/rapid"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/host/hosttest"
	"github.com/petiole-io/petiole/devices/internal/stats"
	"github.com/petiole-io/petiole/internal/logonce"
)

// The outbox drops the oldest samples, reports how many, and never drops an audit.
func TestOutboxDropsOldestSamples(t *testing.T) {
	o := newOutbox(nil, &Room{}, 0, stats.New(), logonce.New(zaptest.NewLogger(t)), zaptest.NewLogger(t))
	o.put(&devices.Audit{RecordNumber: devices.RecordNumber{Sequence: 1}})
	for i := range outboxRecords + 10 {
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
	o := newOutbox(nil, &Room{}, 0, counters, logonce.New(zaptest.NewLogger(t)), zaptest.NewLogger(t))
	for i := range outboxRecords + 3 {
		o.put(&devices.Samples{RecordNumber: devices.RecordNumber{Sequence: uint64(i + 1)}})
	}
	if got := counters.Snapshot().DroppedBatches; got != 3 {
		t.Fatal(got)
	}
}

// TestWaitingSamplesBecomeOneRecord: what is read while the sink stores, or fails, is in one record, which
// is not too large; a record that the sink may have stored stays as it is.
func TestWaitingSamplesBecomeOneRecord(t *testing.T) {
	counters := stats.New()
	r := NewRecorder(devices.Ref{}, "n", &hosttest.Clock{}, nil, &Room{}, 0, counters, logonce.New(zaptest.NewLogger(t)), zaptest.NewLogger(t))
	r.StartEpoch()
	r.Samples(sample(0))
	first := r.outbox.pop()
	for n := range gatheredSamples + 1 {
		r.Samples(sample(n))
	}
	if got := counters.Snapshot(); got.Samples != gatheredSamples+2 || got.Batches != 3 {
		t.Errorf("%d samples in %d records are counted", got.Samples, got.Batches)
	}
	for _, want := range []int{gatheredSamples, 1} {
		if s := r.outbox.pop().(*devices.Samples); len(s.Samples) != want {
			t.Errorf("a record has %d samples, want %d", len(s.Samples), want)
		}
	}
	r.outbox.putBack(first)
	r.Samples(sample(1))
	if again := r.outbox.pop().(*devices.Samples); len(again.Samples) != 1 {
		t.Errorf("a record that may be stored has %d samples", len(again.Samples))
	}
	if waiting := r.outbox.room.waiting.Load(); waiting != 1 {
		t.Errorf("%d samples wait, want 1", waiting)
	}
}

// TestRoomIsShared: when the samples of all devices take too much, each gives up its oldest records.
func TestRoomIsShared(t *testing.T) {
	room, log := &Room{}, zaptest.NewLogger(t)
	box := func() *outbox { return newOutbox(nil, room, 0, stats.New(), logonce.New(log), log) }
	record := func(n uint64) *devices.Samples {
		return &devices.Samples{RecordNumber: devices.RecordNumber{Sequence: n}, Samples: make([]devices.Sample, 100)}
	}
	a, b := box(), box()
	for n := range uint64(roomSamples / 100) {
		a.put(record(n + 1))
	}
	b.put(record(1)) // finds no room, and has nothing older to give up
	b.put(record(2))
	a.put(record(roomSamples/100 + 1))
	if s := b.pop().(*devices.Samples); s.Sequence != 2 || s.Dropped != 1 {
		t.Errorf("the other device has record %d first, after %d that were dropped", s.Sequence, s.Dropped)
	}
	if s := a.pop().(*devices.Samples); s.Dropped == 0 || s.Sequence != s.Dropped+1 {
		t.Errorf("the device has record %d first, after %d that were dropped", s.Sequence, s.Dropped)
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
