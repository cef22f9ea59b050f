package reports

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	pb "github.com/petiole-io/petiole/devices/dmi/v1beta1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var points = []devices.Point{{Name: "a", Type: v1beta1.INT, Cycle: time.Second}, {Name: "b", Type: v1beta1.INT, Cycle: time.Second}}

func value(t *testing.T, property, text string) Report {
	t.Helper()
	r, unknown := Values(points, []*pb.Twin{{PropertyName: property, Reported: &pb.TwinProperty{Value: text}}}, time.Now())
	if len(unknown) > 0 {
		t.Fatal(unknown)
	}
	return r
}

// running returns a reporter that runs, the batches that it delivers, and how to make the
// device unreachable.
func running(t *testing.T) (*Reporter, <-chan devices.Batch, func(reason string)) {
	t.Helper()
	reasons, check := make(chan string, 1), make(chan struct{}, 1)
	reason := ""
	r := New(devices.Ref{Name: "d"}, points, time.Hour, time.Millisecond, func() (string, string) {
		select {
		case reason = <-reasons:
		default:
		}
		return reason, "why"
	}, check)
	batches := make(chan devices.Batch)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Run(ctx, func(b devices.Batch) {
			select {
			case batches <- b:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return r, batches, func(s string) { reasons <- s; check <- struct{}{} }
}

// Reports are delivered in the order in which they came, and one that finds the queue full is
// refused.
func TestOrderAndBound(t *testing.T) {
	r, batches, _ := running(t)
	taken := int64(0)
	for ; ; taken++ {
		err := r.Enqueue(t.Context(), value(t, "a", devices.Int(taken).String()))
		if errors.Is(err, errQueueFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if taken < Queued || taken > Queued+1 { // one more is being delivered
		t.Errorf("%d reports were queued", taken)
	}
	for i := range taken {
		if b := <-batches; !b.Reachable || b.Readings[0].Value != devices.Int(i) {
			t.Fatalf("batch %d: %+v", i, b)
		}
	}
	if last, fresh := r.Last(0); !fresh || last.Reading.Value != devices.Int(taken-1) {
		t.Errorf("last %+v, fresh %v", last, fresh)
	}
}

// Values that a mapper reports do not make a device reachable whose mapper is away.
func TestUnreachable(t *testing.T) {
	r, batches, unreachable := running(t)
	unreachable("Away")
	if b := <-batches; b.Reachable || b.Reason != "Away" || len(b.Readings) != len(points) || b.Readings[1].Quality != devices.Bad {
		t.Fatalf("%+v", b)
	}
	if err := r.Enqueue(t.Context(), value(t, "b", "7")); err != nil {
		t.Fatal(err)
	}
	if b := <-batches; b.Reachable || b.Reason != "Away" || b.Readings[0].Value != devices.Int(7) {
		t.Fatalf("%+v", b)
	}
	unreachable("")
	if err := r.Enqueue(t.Context(), State("unhealthy")); err != nil {
		t.Fatal(err)
	}
	if b := <-batches; !b.Reachable || !b.Degraded {
		t.Fatalf("%+v", b)
	}
}

// A device is silent when all values stay away that used to be repeated; one report is no
// habit.
func TestSilent(t *testing.T) {
	start := time.Now()
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	say := func(h *history, property string, seconds int) {
		r := value(t, property, "1")
		r.at = at(seconds)
		h.record(r)
	}
	h := newHistory(points)
	if h.silent(at(60), time.Second) {
		t.Error("silent before the first report")
	}
	say(&h, "a", 0)
	if h.silent(at(60), time.Second) {
		t.Error("silent after one report")
	}
	say(&h, "a", 61)
	say(&h, "a", 62)
	if h.silent(at(66), time.Second) || h.silent(at(70), time.Minute) {
		t.Error("silent too soon")
	}
	say(&h, "b", 66)
	if h.silent(at(80), time.Second) {
		t.Error("silent with a value that comes only after changes")
	}
	say(&h, "b", 67)
	if !h.silent(at(80), time.Second) || h.silent(at(81), time.Second) {
		t.Error("not silent, or twice")
	}
}

// A mapper that reports a state all the time, as KubeEdge's do, and no value any more, does not
// make the device reachable: the next value does.
func TestStateDoesNotEndSilence(t *testing.T) {
	r := New(devices.Ref{Name: "d"}, points, time.Hour, time.Millisecond, func() (string, string) { return "", "" }, nil)
	var last devices.Batch
	n := 0
	r.deliver = func(b devices.Batch) { last = b; n++ }
	now := time.Now()
	for i := range 3 {
		r.report(value(t, "a", "1"))
		if !last.Reachable || n != i+1 {
			t.Fatalf("%+v", last)
		}
	}
	r.silence = time.Second
	r.checkSilence(now.Add(time.Minute))
	if last.Reachable || last.Reason != ReasonSilent || len(last.Readings) != len(points) {
		t.Fatalf("%+v", last)
	}
	was := n
	r.report(State("ok"))
	r.checkSilence(now.Add(2 * time.Minute))
	if n != was {
		t.Fatalf("a state was delivered: %+v", last)
	}
	bad, _ := Values(points, []*pb.Twin{{PropertyName: "a", Reported: &pb.TwinProperty{Metadata: map[string]string{"quality": "bad"}}}}, now)
	r.report(bad)
	if last.Reachable || last.Reason != ReasonSilent {
		t.Fatalf("%+v", last)
	}
	r.report(value(t, "b", "2"))
	if !last.Reachable || last.Reason != "" {
		t.Fatalf("%+v", last)
	}
	r.report(State("ok"))
	if !last.Reachable || n != was+3 {
		t.Fatalf("%+v", last)
	}
}
