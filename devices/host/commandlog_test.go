package host

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/petiole-io/petiole/devices"
	"pgregory.net/rapid"
)

// However commands with deadlines are repeated, delayed and the host restarted or
// killed, each is carried out at most once, none after its deadline, and memory stays
// bounded.
func TestCommandLogLetsNoCommandThroughTwice(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ctx, device := context.Background(), devices.Ref{Namespace: "ns", Name: "d", UID: "u"}
		state := &memoryState{m: map[string][]byte{}}
		var l commandLog
		now := time.UnixMilli(1_000_000)
		deadlines := map[string]time.Time{}
		executed := map[string]int{}
		used := 0
		for range rapid.IntRange(1, 500).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 100).Draw(t, "pause")) * time.Millisecond)
			if rapid.IntRange(0, 50).Draw(t, "kill") == 0 {
				var err error
				if l, err = loadCommandLog(ctx, state, device, used); err != nil {
					t.Fatal(err)
				}
				l.interrupted()
			}
			id := fmt.Sprint(rapid.IntRange(0, 400).Draw(t, "id"))
			if _, ok := deadlines[id]; !ok {
				deadlines[id] = now.Add(time.Duration(rapid.IntRange(1, 5000).Draw(t, "deadline")) * time.Millisecond)
			}
			if l.find(id) != nil || !now.Before(deadlines[id]) {
				continue
			}
			s, ok := l.add(commandRecord{ID: id, Deadline: deadlines[id].UnixMilli()}, now)
			if !ok {
				continue
			}
			used = max(used, s+1)
			if err := l.saveSegment(ctx, state, device, s); err != nil {
				t.Fatal(err)
			}
			if executed[id]++; executed[id] > 1 {
				t.Fatalf("%s was carried out twice", id)
			}
			if rapid.Bool().Draw(t, "finish") {
				s, ok := l.finish(id, devices.CommandResult{ID: id, Ack: devices.Applied})
				if !ok || l.saveSegment(ctx, state, device, s) != nil {
					t.Fatal("not finished")
				}
			}
		}
		n := 0
		for _, s := range l.segments {
			n += len(s)
		}
		if n > logSegments*segmentRecords || len(executed) >= 256 && n < (logSegments-1)*segmentRecords {
			t.Fatalf("%d are remembered of %d", n, len(executed))
		}
	})
}

// A command log that is full of commands whose deadlines have not passed refuses more.
func TestCommandLogFull(t *testing.T) {
	var l commandLog
	now := time.UnixMilli(1000)
	for i := range logSegments * segmentRecords {
		if _, ok := l.add(commandRecord{ID: fmt.Sprint(i), Deadline: 2000}, now); !ok {
			t.Fatal(i)
		}
	}
	if _, ok := l.add(commandRecord{ID: "x", Deadline: 2000}, now); ok || l.find("x") != nil || l.find("0") == nil {
		t.Fatal("taken")
	}
	if _, ok := l.add(commandRecord{ID: "x", Deadline: 3000}, time.UnixMilli(2000)); !ok || l.find("0") != nil || l.find("255") == nil {
		t.Fatal("not taken")
	}
	l.remove("x")
	if l.find("x") != nil {
		t.Fatal("still there")
	}
}
