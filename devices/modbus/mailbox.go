package modbus

import (
	"context"
	"sync"
)

// mailbox queues the results for one device. Put never blocks: producers call awaitRoom
// before they send further requests. It is safe for concurrent use.
type mailbox struct {
	mu      sync.Mutex
	replies []readResult
	ready   chan struct{}
	emptied chan struct{} // closed by drain; nil: nobody waits
}

// mailboxRoom is the number of results a device may be behind before its poller waits.
const mailboxRoom = 64

func newMailbox() *mailbox { return &mailbox{ready: make(chan struct{}, 1)} }

// put adds a result. It does not block.
func (m *mailbox) put(a readResult) {
	m.mu.Lock()
	m.replies = append(m.replies, a)
	m.mu.Unlock()
	select {
	case m.ready <- struct{}{}:
	default:
	}
}

// drain removes all results and returns them.
func (m *mailbox) drain() []readResult {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.replies
	m.replies = nil
	if m.emptied != nil {
		close(m.emptied)
		m.emptied = nil
	}
	return all
}

// awaitRoom blocks until there is room, or one of the contexts ends.
func (m *mailbox) awaitRoom(ctx, reader context.Context) {
	for {
		m.mu.Lock()
		if len(m.replies) < mailboxRoom {
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
