package link

import (
	"testing"
	"time"
)

func TestQueueGivesPollsTheirShare(t *testing.T) {
	q := newQueue()
	now := time.Now()
	for range 20 {
		q.put(&Job{Priority: Write, Due: now})
	}
	q.put(&Job{Priority: Probe, Due: now.Add(-time.Hour)})
	q.put(&Job{Priority: Command, Due: now.Add(time.Second)})
	q.put(&Job{Priority: Poll, Due: now})
	q.put(&Job{Priority: Overdue, Due: now.Add(time.Second)})
	q.put(&Job{Priority: Poll, Due: now.Add(-time.Second)})
	var order []Priority
	for range 25 {
		order = append(order, q.next(nil).Priority)
	}
	for i, want := range map[int]Priority{0: Command, 1: Write, 3: Write, 4: Overdue, 5: Write, 9: Poll, 14: Poll, 15: Write, 24: Probe} {
		if order[i] != want {
			t.Fatalf("place %d: %v", i, order)
		}
	}
	if q.next(nil) != nil {
		t.Fatal("more than was put")
	}
}
