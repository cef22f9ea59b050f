package report

import (
	"context"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/host/hosttest"
	"github.com/petiole-io/petiole/devices/internal/stats"
	"github.com/petiole-io/petiole/internal/logonce"
	"github.com/petiole-io/petiole/internal/polltest"
)

// store is a sink that keeps what it is given.
type store struct {
	mu      sync.Mutex
	records []*devices.Samples
	audits  int
}

func (s *store) Samples(_ context.Context, b *devices.Samples) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = append(s.records, b)
	return nil
}

func (s *store) Audit(context.Context, *devices.Audit) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.audits++
	return nil
}

func (s *store) Status(context.Context, devices.Ref, *v1beta1.DeviceStatus) error { return nil }
func (s *store) Event(context.Context, *devices.Event) error                      { return nil }

// values returns the values in the order of the records, which must be numbered without a gap.
func (s *store) values(t *testing.T) (values []string, records int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, r := range s.records {
		if r.Sequence != uint64(i+1) {
			t.Fatalf("record %d has the sequence %d", i+1, r.Sequence)
		}
		for _, sample := range r.Samples {
			values = append(values, sample.Value.String())
		}
	}
	return values, len(s.records)
}

// gathering returns a Recorder with an interval that is as good as never, and how to end it.
func gathering(t *testing.T, gather time.Duration) (r *Recorder, out *store, end func()) {
	t.Helper()
	out, log := &store{}, zaptest.NewLogger(t)
	r = NewRecorder(devices.Ref{Namespace: "default", Name: "pump"}, "n", &hosttest.Clock{}, out, &Room{}, gather, stats.New(), logonce.New(log), log)
	r.StartEpoch()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	end = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(end)
	return r, out, end
}

func sample(n int) []devices.Sample {
	return []devices.Sample{{Property: "p", Value: devices.Int(int64(n))}}
}

// TestSamplesAreGathered gathers samples: they become one record, nothing is stored before its time,
// an audit does not wait, and a stop stores the rest.
func TestSamplesAreGathered(t *testing.T) {
	r, out, end := gathering(t, time.Hour)
	for n := range 50 {
		r.Samples(sample(n))
	}
	r.Audit(&devices.Audit{})
	polltest.Eventually(t, "the audit", func() bool { out.mu.Lock(); defer out.mu.Unlock(); return out.audits == 1 })
	if values, _ := out.values(t); len(values) != 0 {
		t.Fatalf("stored before its time: %v", values)
	}
	end()
	values, records := out.values(t)
	if records != 1 || len(values) != 50 || values[0] != "0" || values[49] != "49" {
		t.Errorf("%d records with %v", records, values)
	}
}

// TestGatheredRecordsAreBounded gathers more samples than a record may have.
func TestGatheredRecordsAreBounded(t *testing.T) {
	r, out, end := gathering(t, time.Hour)
	for n := range 2*gatheredSamples + 1 {
		r.Samples(sample(n))
	}
	polltest.Eventually(t, "two records", func() bool { _, n := out.values(t); return n == 2 })
	end()
	if values, records := out.values(t); records != 3 || len(values) != 2*gatheredSamples+1 {
		t.Errorf("%d samples in %d records", len(values), records)
	}
}

// TestGatheredAtSharedTimes gathers for a short interval: samples are stored without a stop, and a
// new epoch begins a record of its own.
func TestGatheredAtSharedTimes(t *testing.T) {
	r, out, _ := gathering(t, 20*time.Millisecond)
	r.Samples(sample(1))
	polltest.Eventually(t, "the first", func() bool { values, _ := out.values(t); return len(values) == 1 })
	r, out, end := gathering(t, time.Hour)
	r.Samples(sample(1))
	r.StartEpoch()
	r.Samples(sample(2))
	end()
	if len(out.records) != 2 || out.records[0].Epoch == out.records[1].Epoch || out.records[1].Sequence != 1 {
		t.Errorf("%d records", len(out.records))
	}
}
