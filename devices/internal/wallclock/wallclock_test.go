package wallclock

import (
	"testing"
	"time"
)

func TestClock(t *testing.T) {
	c := Clock{}
	for i, x := range []struct {
		wall, monotonic time.Duration
		back            bool
	}{
		{time.Second, time.Second, false},
		{time.Hour, 2 * time.Second, false},
		{3 * time.Second, 3 * time.Second, true},
		{4 * time.Second, 4 * time.Second, false},
		{0, 5 * time.Second, false},
		{-time.Hour, 6 * time.Second, true},
	} {
		if got := c.step(x.wall, x.monotonic); got != x.back {
			t.Errorf("%d: %v", i, got)
		}
	}
	now := New()
	if now.SetBack(time.Now()) || now.Stepped(time.Now()) != 0 {
		t.Error("set")
	}
}
