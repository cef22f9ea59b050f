package replicate

import (
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
)

// line is a hub that answers requests at a rate, as nats-server does: it knows the sizes of
// what waits, and what is under way.
type line struct {
	t    *testing.T
	p    *puller
	rate int
	// roundTrip is the time from a request to the first byte of its answer.
	roundTrip time.Duration
	// sizes are of what waits at the hub, wire is what is under way.
	sizes []int
	wire  []wired
	n     int
	most  int
}

type wired struct {
	d    *delivery
	msg  *nats.Msg
	size int
	// ready is when the line can carry it at the earliest; last is set on the last one of an answer.
	ready time.Time
	last  bool
}

func (l *line) request(inbox string, body []byte) error {
	var r pullRequest
	if err := json.Unmarshal(body, &r); err != nil {
		l.t.Error(err)
	}
	ready := time.Now().Add(l.roundTrip)
	status := func(why string) {
		l.wire = append(l.wire, wired{size: 100, ready: ready, msg: &nats.Msg{Subject: inbox, Header: nats.Header{"Status": {"409"}, "Description": {why}}}})
	}
	for left := r.MaxBytes; r.Batch > 0 && len(l.sizes) > 0; r.Batch-- {
		size := l.sizes[0]
		if r.MaxBytes > 0 && size > left {
			status("Message Size Exceeds MaxBytes")
			break
		}
		left -= size
		l.sizes = l.sizes[1:]
		l.n++
		d := &delivery{Msg: &nats.Msg{Data: make([]byte, size)}, consumer: uint64(l.n), pending: uint64(len(l.sizes))}
		l.wire = append(l.wire, wired{d: d, size: size, ready: ready})
		if r.Batch == 1 && r.MaxBytes > 0 && left > 0 {
			status("Batch Completed")
		}
	}
	if len(l.wire) > 0 {
		l.wire[len(l.wire)-1].last = true
	}
	under := 0
	for _, w := range l.wire {
		under += w.size
	}
	l.most = max(l.most, under)
	return nil
}

// TestPullerKeepsTheLineBusy has a backlog cross lines of several rates: never more than a
// two seconds of it are under way once the rate is known, and two round trips more, and the line seldom
// waits.
func TestPullerKeepsTheLineBusy(t *testing.T) {
	const local, satellite = 20 * time.Millisecond, 600 * time.Millisecond
	for _, c := range []struct {
		rate, messages, size int
		roundTrip            time.Duration
		compressed           bool
	}{
		{1200, 100, 900, local, false},
		{1200, 60, 1500, local, true},
		{1200, 10, 8600, local, true},
		{8000, 100, 900, local, false},
		{8000, 60, 8600, local, true},
		{32_000, 400, 3000, local, false},
		{32_000, 160, 8600, local, true},
		{10 << 20, 5000, 600, local, false},
		{1200, 60, 1500, satellite, true},
		{1200, 10, 8600, satellite, true},
		{8000, 60, 8600, satellite, true},
		{8000, 60, 8600, satellite, false},
		{32_000, 160, 8600, satellite, true},
		{32_000, 160, 8600, satellite, false},
		{32_000, 1000, 1500, satellite, true},
	} {
		t.Run(fmt.Sprintf("%d bytes a second, %d messages of %d, %s, compressed %t", c.rate, c.messages, c.size, c.roundTrip, c.compressed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newPullWindow()
				w.StartSession(true)
				w.SetRoundTrip(c.roundTrip)
				l := &line{t: t, rate: c.rate, roundTrip: c.roundTrip}
				for range c.messages {
					l.sizes = append(l.sizes, c.size)
				}
				l.p = &puller{window: &w, waiting: uint64(c.messages), publish: l.request}
				start, idle := time.Now(), time.Duration(0)
				var held []wired
				for l.n < c.messages || len(l.wire) > 0 {
					if err := l.p.request(time.Now()); err != nil {
						t.Fatal(err)
					}
					if len(l.wire) == 0 {
						t.Fatalf("nothing is under way after %d messages of %d", l.n, c.messages)
					}
					next := l.wire[0]
					if wait := time.Until(next.ready); wait > 0 {
						idle += wait
						time.Sleep(wait)
					}
					time.Sleep(time.Duration(next.size) * time.Second / time.Duration(c.rate))
					l.wire = l.wire[1:]
					held = append(held, next)
					if c.compressed && !next.last {
						continue // one that is compressed arrives as a whole
					}
					for _, h := range held {
						if h.d != nil {
							l.p.delivered(*h.d, time.Now())
						} else if err := l.p.status(h.msg, time.Now()); err != nil {
							t.Fatal(err)
						}
					}
					held = nil
				}
				bound := max(2*partRoom+200, int((2*time.Second+4*c.roundTrip).Seconds()*float64(c.rate)), c.size+200)
				if l.most > bound {
					t.Errorf("%d bytes were under way, want %d at most", l.most, bound)
				}
				took := time.Since(start)
				t.Logf("the line waited %.1f%% of %s", 100*idle.Seconds()/took.Seconds(), took.Round(time.Second))
				if idle > took/5+20*c.roundTrip { // the window grows at first
					t.Errorf("the line waited %s of %s", idle, took)
				}
			})
		})
	}
}
