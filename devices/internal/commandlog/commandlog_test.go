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
			s, ok := l.Add(Record{ID: id}, deadlines[id], now)
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
		if _, ok := l.Add(Record{ID: fmt.Sprint(i)}, time.UnixMilli(2000), now); !ok {
			t.Fatal(i)
		}
	}
	if _, ok := l.Add(Record{ID: "x"}, time.UnixMilli(2000), now); ok || l.Find("x") != nil || l.Find("0") == nil {
		t.Fatal("taken")
	}
	if _, ok := l.Add(Record{ID: "x"}, time.UnixMilli(3000), time.UnixMilli(2000)); !ok || l.Find("0") != nil || l.Find("255") == nil {
		t.Fatal("not taken")
	}
	l.Remove("x")
	if l.Find("x") != nil {
		t.Fatal("still there")
	}
}

// A log that was filled by a clock that was in 2038 takes commands after the clock was set: those that
// it took before the restart, and those that it has taken since.
func TestClockThatIsSetBackFillsNoLog(t *testing.T) {
	ctx, device, state := context.Background(), devices.Ref{Namespace: "ns", Name: "d", UID: "u"}, &devicestest.State{}
	future := time.Date(2038, time.January, 19, 0, 0, 0, 0, time.UTC)
	var l Log
	for i := range Segments * segmentRecords {
		s, ok := l.Add(Record{ID: fmt.Sprint(i)}, future.Add(time.Minute), future)
		if !ok || l.Save(ctx, state, device, s) != nil {
			t.Fatal(i)
		}
	}
	if _, ok := l.Add(Record{ID: "x"}, future.Add(time.Minute), future); ok {
		t.Fatal("a command is forgotten before its deadline")
	}
	l, err := Load(ctx, state, device, Segments)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for i := range Segments * segmentRecords {
		if _, ok := l.Add(Record{ID: fmt.Sprint("new-", i)}, now.Add(time.Minute), now); !ok {
			t.Fatalf("refused after %d", i)
		}
	}
	if _, ok := l.Add(Record{ID: "y"}, now.Add(time.Minute), now); ok {
		t.Fatal("a command is forgotten before its deadline")
	}
}
