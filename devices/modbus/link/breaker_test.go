package link

import (
	"testing"
	"time"
)

// Pain 20: a device that comes back is found soon, since it is alone on its link.
func TestPain20BackOffIsBounded(t *testing.T) {
	b := breaker{}
	now := time.Unix(0, 0)
	for range 20 {
		b.recordFailure(now, defaultMaxBackoff(true, time.Second), 0)
	}
	if wait := b.next.Sub(now); wait > 5*time.Second {
		t.Fatal(wait)
	}
	b = breaker{}
	b.recordFailure(now, time.Minute, 0)
	b.recordFailure(now, time.Minute, 0)
	if b.open() || !b.allows(now) {
		t.Fatal("two misses are not silence")
	}
	b.recordFailure(now, time.Minute, 0)
	if b.allows(now.Add(999*time.Millisecond)) || !b.allows(now.Add(time.Second)) {
		t.Fatal("first step")
	}
	if b.recordSuccess(); b.open() {
		t.Fatal("answered")
	}
}
