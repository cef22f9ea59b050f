package modbus

import (
	"testing"
	"time"
)

func TestQueueGivesPollsTheirShare(t *testing.T) {
	q := newQueue()
	now := time.Now()
	for range 20 {
		q.put(&job{priority: prioWrite, due: now})
	}
	q.put(&job{priority: prioProbe, due: now.Add(-time.Hour)})
	q.put(&job{priority: prioCommand, due: now.Add(time.Second)})
	q.put(&job{priority: prioPoll, due: now})
	q.put(&job{priority: prioOverdue, due: now.Add(time.Second)})
	q.put(&job{priority: prioPoll, due: now.Add(-time.Second)})
	var order []priority
	for range 25 {
		order = append(order, q.next(nil).priority)
	}
	for i, want := range map[int]priority{0: prioCommand, 1: prioWrite, 3: prioWrite, 4: prioOverdue, 5: prioWrite, 9: prioPoll, 14: prioPoll, 15: prioWrite, 24: prioProbe} {
		if order[i] != want {
			t.Fatalf("place %d: %v", i, order)
		}
	}
	if q.next(nil) != nil {
		t.Fatal("more than was put")
	}
}
