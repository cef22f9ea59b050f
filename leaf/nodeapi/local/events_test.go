package local

import (
	"fmt"
	"testing"
	"time"

	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
)

func TestEventsAreBounded(t *testing.T) {
	var q eventQueue
	now := time.Now()
	for i := range eventMax + 10 {
		q.add(objects.Key{Namespace: "default", Name: fmt.Sprint(i)}, uint64(i+1), now)
	}
	q.add(objects.Key{Namespace: "default", Name: "0"}, 5000, now)
	if out := q.expire(now); len(out) != 10 || out[0].Name != "1" {
		t.Errorf("expired %d, first %v; want 10 from 1 on: 0 was renewed", len(out), out[0])
	}
	if out := q.expire(now.Add(2 * eventLife)); len(out) != eventMax {
		t.Errorf("expired %d by age, want %d", len(out), eventMax)
	}
}

// TestEventsOfAnUnsetClockHaveNoTime: the store would remove them all when the clock is set.
func TestEventsOfAnUnsetClockHaveNoTime(t *testing.T) {
	if len(putOptions(objects.Events, false)) != 0 || len(putOptions(objects.Events, true)) != 1 || len(putOptions(objects.Pods, true)) != 0 {
		t.Error("only Events of a clock that is right have a time")
	}
}
