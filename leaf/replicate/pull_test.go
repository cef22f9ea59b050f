package replicate

import (
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/streams/window"
)

// line is a hub that answers requests at a rate, as nats-server does: it knows the sizes of
// what waits, and what is under way.
type line struct {
	t    *testing.T
	p    *puller
	rate int
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
}

func (l *line) request(inbox string, body []byte) error {
	var r pullRequest
	if err := json.Unmarshal(body, &r); err != nil {
		l.t.Error(err)
	}
	status := func(why string) {
		l.wire = append(l.wire, wired{size: 100, msg: &nats.Msg{Subject: inbox, Header: nats.Header{"Status": {"409"}, "Description": {why}}}})
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
		l.wire = append(l.wire, wired{d: d, size: size})
		if r.Batch == 1 && r.MaxBytes > 0 && left > 0 {
			status("Batch Completed")
		}
	}
	under := 0
	for _, w := range l.wire {
		under += w.size
	}
	l.most = max(l.most, under)
	return nil
}

// TestPullerKeepsTheLineBusy has a backlog cross lines of several rates: never more than a
// second and a half of it is under way once the rate is known, and the line seldom waits.
func TestPullerKeepsTheLineBusy(t *testing.T) {
	for _, c := range []struct{ rate, messages, size int }{
		{1200, 100, 900}, {1200, 10, 8600}, {8000, 100, 900}, {8000, 60, 8600}, {32_000, 400, 3000}, {10 << 20, 5000, 600},
	} {
		t.Run(fmt.Sprintf("%d bytes a second, %d messages of %d", c.rate, c.messages, c.size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newPullWindow()
				w.StartSession(true)
				l := &line{t: t, rate: c.rate}
				for range c.messages {
					l.sizes = append(l.sizes, c.size)
				}
				l.p = &puller{window: &w, waiting: uint64(c.messages), publish: l.request}
				start, idle := time.Now(), time.Duration(0)
				for l.n < c.messages || len(l.wire) > 0 {
					if err := l.p.request(time.Now()); err != nil {
						t.Fatal(err)
					}
					if len(l.wire) == 0 {
						t.Fatalf("nothing is under way after %d messages of %d", l.n, c.messages)
					}
					if len(l.wire) == 1 {
						idle += 20 * time.Millisecond // the round trip that the line waits
					}
					next := l.wire[0]
					time.Sleep(time.Duration(next.size) * time.Second / time.Duration(c.rate))
					l.wire = l.wire[1:]
					if next.d != nil {
						l.p.delivered(*next.d, time.Now())
					} else if err := l.p.status(next.msg, time.Now()); err != nil {
						t.Fatal(err)
					}
				}
				bound := max(window.First+window.First/2, 2*c.rate, c.size+200)
				if l.most > bound {
					t.Errorf("%d bytes were under way, want %d at most", l.most, bound)
				}
				if took := time.Since(start); idle > took/4 {
					t.Errorf("the line waited %s of %s", idle, took)
				}
			})
		})
	}
}
