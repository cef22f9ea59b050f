package rig

import (
	"context"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestBound(t *testing.T) {
	const goal = 5 * time.Second
	for _, c := range []struct {
		share float64
		known bool
		want  time.Duration
		why   string
	}{
		{0, true, goal, "idle"}, {0.49, true, goal, "49 %"}, {0.5, true, 3 * goal, "busy"}, {1, true, 3 * goal, "100 %"}, {0, false, goal, "not known"},
	} {
		if got, why := Bound(goal, c.share, c.known); got != c.want || !strings.Contains(why, c.why) {
			t.Errorf("%v: %s because %q, want %s, %q", c.share, got, why, c.want, c.why)
		}
	}
}

// TestPressureBetween: the share is that of the window, whatever was before and after.
func TestPressureBetween(t *testing.T) {
	start := time.Now()
	at := func(tenths int) time.Time { return start.Add(time.Duration(tenths) * pressureInterval) }
	var p Pressure
	if _, known := p.Between(at(0), at(1)); known {
		t.Error("known without a note")
	}
	waited := time.Duration(0)
	for i := range 31 { // busy for a second, idle for one, busy by a quarter for one
		p.note(pressureNote{at(i), waited})
		switch {
		case i < 10:
			waited += pressureInterval
		case i >= 20:
			waited += pressureInterval / 4
		}
	}
	for _, c := range []struct {
		from, to int
		want     float64
	}{{0, 10, 1}, {10, 20, 0}, {20, 30, 0.25}, {5, 15, 0.5}, {0, 30, 1.25 / 3}, {10, 10, 1}, {19, 20, 0}, {14, 15, 0.5}} {
		if got, known := p.Between(at(c.from), at(c.to)); !known || got < c.want-0.001 || got > c.want+0.001 {
			t.Errorf("%d to %d: %v, %t; want %v", c.from, c.to, got, known, c.want)
		}
	}
	if _, known := p.Between(at(-10), at(10)); known {
		t.Error("known from before the first note")
	}
}

func TestParsePressure(t *testing.T) {
	got, err := parsePressure("some avg10=82.51 avg60=55.69 avg300=66.69 total=3630212516\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
	if err != nil || got != 3630212516*time.Microsecond {
		t.Error(got, err)
	}
	for _, bad := range []string{"", "full avg10=0.00 total=0", "some total=x", "some avg10=0.00"} {
		if _, err := parsePressure(bad); err == nil || !strings.Contains(err.Error(), "/proc/pressure/cpu") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestParseSteal(t *testing.T) {
	got, err := parseSteal("cpu  639605 42652 151824 42570 3155 0 6162 446 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n")
	if err != nil || got != 4460*time.Millisecond {
		t.Error(got, err)
	}
	for _, bad := range []string{"", "cpu 1 2 3", "intr 1 2 3 4 5 6 7 8 9", "cpu 1 2 3 4 5 6 7 x 9"} {
		if _, err := parseSteal(bad); err == nil || !strings.Contains(err.Error(), "/proc/stat") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestPressureIsSeen makes this machine busy with twice as many tasks as it has CPUs.
func TestPressureIsSeen(t *testing.T) {
	var p Pressure
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var group sync.WaitGroup
	group.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	// As many threads as that, whatever limits this process.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2*runtime.NumCPU() + 1))
	for range 2 * runtime.NumCPU() {
		group.Go(func() {
			for ctx.Err() == nil {
				_ = rand.Uint64()
			}
		})
	}
	start := time.Now()
	share, known := 0.0, false
	for time.Since(start) < 20*time.Second && share < idlePressure {
		now := time.Now()
		for time.Since(now) < time.Second {
			runtime.Gosched()
		}
		share, known = p.Between(now, now.Add(time.Second-pressureInterval))
	}
	cancel()
	group.Wait()
	if !known || share < idlePressure {
		t.Errorf("a busy machine has a pressure of %v (known: %t)", share, known)
	}
}
