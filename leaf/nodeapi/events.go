package nodeapi

import (
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	// Events are kept here for reading as long as the API server keeps them, and no
	// more than so many.
	eventLife = time.Hour
	eventMax  = 1000
	// eventWait is how long an event waits for the link before it is dropped.
	eventWait = 24 * time.Hour
)

// putOptions bounds what waits for the link: states replace one another, events
// accumulate.
func putOptions(gr schema.GroupResource) []jetstream.PublishOpt {
	if gr == eventsGR {
		return []jetstream.PublishOpt{jetstream.WithMsgTTL(eventWait)}
	}
	return nil
}

// eventRef is one stored version of an Event.
type eventRef struct {
	key
	seq uint64
	at  time.Time
}

// eventQueue orders the Events by age, to drop the oldest. The zero value is ready.
type eventQueue struct {
	mu     sync.Mutex
	order  []eventRef
	latest map[key]uint64
}

func (e *eventQueue) add(k key, seq uint64, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.latest == nil {
		e.latest = map[key]uint64{}
	}
	e.latest[k] = seq
	e.order = append(e.order, eventRef{k, seq, at})
}

// expire takes out the Events that are too old or too many.
func (e *eventQueue) expire(now time.Time) []eventRef {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []eventRef
	n := 0
	for _, ref := range e.order {
		if e.latest[ref.key] == ref.seq {
			if len(e.latest) <= eventMax && now.Sub(ref.at) <= eventLife {
				break
			}
			delete(e.latest, ref.key)
			out = append(out, ref)
		}
		n++
	}
	e.order = append([]eventRef(nil), e.order[n:]...)
	return out
}
