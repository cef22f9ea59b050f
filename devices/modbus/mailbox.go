package modbus

import (
	"context"
	"sync"
)

// mailbox holds the answers for a device in the order in which they came. It takes
// what it is given at once; who gives asks for room before. It is safe for concurrent
// use.
type mailbox struct {
	mu      sync.Mutex
	answers []answered
	news    chan struct{}
	emptied chan struct{} // closed when the answers are taken; nil: nobody waits
}

// mailboxRoom is how many answers a device may be behind before its unit waits.
const mailboxRoom = 64

func newMailbox() *mailbox { return &mailbox{news: make(chan struct{}, 1)} }

// put does not block.
func (m *mailbox) put(a answered) {
	m.mu.Lock()
	m.answers = append(m.answers, a)
	m.mu.Unlock()
	select {
	case m.news <- struct{}{}:
	default:
	}
}

// take empties the mailbox.
func (m *mailbox) take() []answered {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.answers
	m.answers = nil
	if m.emptied != nil {
		close(m.emptied)
		m.emptied = nil
	}
	return all
}

// room waits until there is room, or one of the contexts ends.
func (m *mailbox) room(ctx, reader context.Context) {
	for {
		m.mu.Lock()
		if len(m.answers) < mailboxRoom {
			m.mu.Unlock()
			return
		}
		if m.emptied == nil {
			m.emptied = make(chan struct{})
		}
		emptied := m.emptied
		m.mu.Unlock()
		select {
		case <-emptied:
		case <-ctx.Done():
			return
		case <-reader.Done():
			return
		}
	}
}
