package local

import (
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
)

const (
	// Events are served as long as an API server keeps them, and at most eventMax of them.
	eventLife = time.Hour
	eventMax  = 1000
	// eventWait is the time for which an Event waits for the link before it is dropped.
	eventWait = 24 * time.Hour
	// waitMax bounds the Events that wait for the link without a time.
	waitMax = 10 * eventMax
)

// putOptions bounds the Events that wait for the link: unlike states, they do not replace one
// another. While the clock is not right they have no time: when it is set ahead, from 1970, all of
// them would be over at once.
func putOptions(gr schema.GroupResource, right bool) []jetstream.PublishOpt {
	if gr == objects.Events && right {
		return []jetstream.PublishOpt{jetstream.WithMsgTTL(eventWait)}
	}
	return nil
}

// eventRef identifies a stored version of an Event.
type eventRef struct {
	objects.Key
	seq uint64
	at  time.Time
}

// eventQueue orders the Events by age, so that the oldest are dropped first. The zero value is
// ready to use.
type eventQueue struct {
	mu     sync.Mutex
	order  []eventRef
	latest map[objects.Key]uint64
}

func (e *eventQueue) add(k objects.Key, seq uint64, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.latest == nil {
		e.latest = map[objects.Key]uint64{}
	}
	e.latest[k] = seq
	e.order = append(e.order, eventRef{k, seq, at})
}

// expire removes and returns the Events that are too old or too many.
func (e *eventQueue) expire(now time.Time) []eventRef {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []eventRef
	n := 0
	for _, ref := range e.order {
		if e.latest[ref.Key] == ref.seq {
			if len(e.latest) <= eventMax && now.Sub(ref.at) <= eventLife {
				break
			}
			delete(e.latest, ref.Key)
			out = append(out, ref)
		}
		n++
	}
	e.order = append([]eventRef(nil), e.order[n:]...)
	return out
}
