package commandlog

import (
	"context"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/devicestest"
)

// However commands with deadlines are repeated, delayed and the host restarted or
// killed, each is carried out at most once, none after its deadline, and memory stays
// bounded.
func TestCommandLogLetsNoCommandThroughTwice(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ctx, device := context.Background(), devices.Ref{Namespace: "ns", Name: "d", UID: "u"}
		state := &devicestest.State{}
		var l Log
		now := time.UnixMilli(1_000_000)
		deadlines := map[string]time.Time{}
		executed := map[string]int{}
		used := 0
		for range rapid.IntRange(1, 500).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 100).Draw(t, "pause")) * time.Millisecond)
			if rapid.IntRange(0, 50).Draw(t, "kill") == 0 {
				var err error
				if l, err = Load(ctx, state, device, used); err != nil {
					t.Fatal(err)
				}
				l.Interrupted()
			}
			id := fmt.Sprint(rapid.IntRange(0, 400).Draw(t, "id"))
			if _, ok := deadlines[id]; !ok {
				deadlines[id] = now.Add(time.Duration(rapid.IntRange(1, 5000).Draw(t, "deadline")) * time.Millisecond)
			}
			if l.Find(id) != nil || !now.Before(deadlines[id]) {
				continue
			}
			s, ok := l.Add(Record{ID: id, Deadline: deadlines[id].UnixMilli()}, now)
			if !ok {
				continue
			}
			used = max(used, s+1)
			if err := l.Save(ctx, state, device, s); err != nil {
				t.Fatal(err)
			}
			if executed[id]++; executed[id] > 1 {
				t.Fatalf("%s was carried out twice", id)
			}
			if rapid.Bool().Draw(t, "finish") {
				s, ok := l.Finish(id, devices.CommandResult{ID: id, Ack: devices.Applied})
				if !ok || l.Save(ctx, state, device, s) != nil {
					t.Fatal("not finished")
				}
			}
		}
		n := 0
		for _, s := range l.segments {
			n += len(s)
		}
		if n > Segments*segmentRecords || len(executed) >= 256 && n < (Segments-1)*segmentRecords {
			t.Fatalf("%d are remembered of %d", n, len(executed))
		}
	})
}

// A command log that is full of commands whose deadlines have not passed refuses more.
func TestCommandLogFull(t *testing.T) {
	var l Log
	now := time.UnixMilli(1000)
	for i := range Segments * segmentRecords {
		if _, ok := l.Add(Record{ID: fmt.Sprint(i), Deadline: 2000}, now); !ok {
			t.Fatal(i)
		}
	}
	if _, ok := l.Add(Record{ID: "x", Deadline: 2000}, now); ok || l.Find("x") != nil || l.Find("0") == nil {
		t.Fatal("taken")
	}
	if _, ok := l.Add(Record{ID: "x", Deadline: 3000}, time.UnixMilli(2000)); !ok || l.Find("0") != nil || l.Find("255") == nil {
		t.Fatal("not taken")
	}
	l.Remove("x")
	if l.Find("x") != nil {
		t.Fatal("still there")
	}
}
