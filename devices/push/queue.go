package push

import "sync"

// queue holds the messages that wait for an endpoint, oldest first. If it is full, put drops
// the oldest.
type queue struct {
	mu       sync.Mutex
	messages []Message
	limit    int
	dropped  uint64
	wake     chan struct{}
}

func newQueue(limit int) *queue { return &queue{limit: limit, wake: make(chan struct{}, 1)} }

// put appends a message. It never blocks.
func (q *queue) put(m Message) {
	q.mu.Lock()
	if len(q.messages) >= q.limit {
		q.messages[0] = Message{}
		q.messages = q.messages[1:]
		q.dropped++
	}
	q.messages = append(q.messages, m)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) pop() (Message, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.messages) == 0 {
		return Message{}, false
	}
	m := q.messages[0]
	q.messages[0] = Message{}
	q.messages = q.messages[1:]
	return m, true
}

func (q *queue) state() (waiting int, dropped uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.messages), q.dropped
}
