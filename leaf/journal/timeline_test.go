package journal

import (
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/petiole-io/petiole/streams"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestTimeline copies a store at random moments and lets both copies go on: a sequence
// that holds two records never has one id for both, and a position of the other copy
// never makes one pass over what is its own.
func TestTimeline(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type copyOf struct {
			l       Timeline
			last    uint64
			records map[uint64]int // by sequence, what was stored there
		}
		ids, next := int64(1), 0
		start := func(c *copyOf) {
			ids++
			c.l = c.l.with(incarnation{id: ids, from: c.last + 1})
		}
		created := time.Unix(0, 1)
		first, err := parseTimeline("", created)
		if err != nil {
			t.Fatal(err)
		}
		copies := []*copyOf{{l: first, records: map[uint64]int{}}}
		start(copies[0])
		owner := map[string]int{}
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			c := copies[rapid.IntRange(0, len(copies)-1).Draw(t, "copy")]
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				start(c)
			case 1:
				other := &copyOf{l: append(Timeline{}, c.l...), last: c.last, records: map[uint64]int{}}
				for k, v := range c.records {
					other.records[k] = v
				}
				start(other)
				copies = append(copies, other)
			default:
				c.last++
				next++
				c.records[c.last] = next
				id := c.l.MessageID("s", streams.SiteTelemetry, c.last).String()
				if was, ok := owner[id]; ok && was != next {
					t.Fatalf("record %d has the id %s of record %d", next, id, was)
				}
				owner[id] = next
			}
			written, err := parseTimeline(c.l.String(), created)
			if err != nil || written.String() != c.l.String() {
				t.Fatalf("%q is read as %q, %v", c.l, written, err)
			}
		}
		for _, c := range copies {
			for _, other := range copies {
				id := other.l.MessageID("s", streams.SiteTelemetry, other.last)
				at, ok := c.l.Locate(streams.SiteTelemetry, id)
				for seq := uint64(1); ok && seq <= min(at, c.last); seq++ {
					if c.records[seq] != other.records[seq] {
						t.Fatalf("with %s at the hub record %d is passed over", id, c.records[seq])
					}
				}
			}
		}
	})
}

func FuzzTimeline(f *testing.F) {
	f.Add("17:4,18:9")
	f.Add("17:4,18:3")
	f.Fuzz(func(t *testing.T, s string) {
		l, err := parseTimeline(s, time.Unix(0, 5))
		if err != nil {
			return
		}
		again, err := parseTimeline(l.String(), time.Unix(0, 5))
		if err != nil || len(again) != len(l) {
			t.Fatalf("%q is read as %v and then as %v, %v", s, l, again, err)
		}
	})
}

// FuzzLocate locates any id that the hub may answer with.
func FuzzLocate(f *testing.F) {
	f.Add("plant-a.SITE_TELEMETRY.17.4")
	l := Timeline{{id: 17}}
	f.Fuzz(func(t *testing.T, id string) {
		if p, err := streams.ParseForwardID(id); err == nil {
			if at, ok := l.Locate(streams.SiteTelemetry, p); ok && at != p.Seq {
				t.Fatalf("%q locates %d", id, at)
			}
		}
	})
}
