package link

import (
	"testing"
	"time"
)

// The timeout follows what a unit takes, within its bounds.
func TestTimeoutFollowsTheUnit(t *testing.T) {
	var l latencies
	shortest, longest := 50*time.Millisecond, time.Second
	for i := range 32 {
		if got := l.timeout(shortest, longest); got != longest {
			t.Fatalf("after %d answers: %s", i, got)
		}
		l.add(30 * time.Millisecond)
	}
	if got := l.timeout(shortest, longest); got != 120*time.Millisecond {
		t.Fatal(got)
	}
	l.recordTimeout()
	if got := l.timeout(shortest, longest); got != longest {
		t.Fatal("after a miss", got)
	}
	l.add(400 * time.Millisecond) // slow, once
	if got := l.timeout(shortest, longest); got != longest {
		t.Fatal(got)
	}
	for range 32 {
		l.add(time.Millisecond)
	}
	if got := l.timeout(shortest, longest); got != shortest {
		t.Fatal(got)
	}
}
