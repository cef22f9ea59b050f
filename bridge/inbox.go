package bridge

import (
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// arrival is a message of REPORTED that was delivered, or read again, and has not been
// looked into.
type arrival struct {
	subject string
	header  nats.Header
	data    []byte
	seq     uint64
	stored  time.Time
	// from is the message to acknowledge, nil when that was done before.
	from jetstream.Msg
}

func arrivalOf(msg jetstream.Msg, meta *jetstream.MsgMetadata) *arrival {
	return &arrival{subject: msg.Subject(), header: msg.Headers(), data: msg.Data(), seq: meta.Sequence.Stream, stored: meta.Timestamp}
}

// inbox holds the arrivals of each site in their order, so that looking into those of one
// site, which may take requests to the hub, holds up that site alone. It does no I/O and
// is safe for concurrent use.
type inbox struct {
	mu    sync.Mutex
	sites map[string]*siteInbox
}

type siteInbox struct {
	arrivals []*arrival
	// busy reports whether a message of the site is being read.
	busy bool
}

func newInbox() *inbox { return &inbox{sites: map[string]*siteInbox{}} }

func (b *inbox) put(site string, a *arrival) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sites[site]
	if s == nil {
		s = &siteInbox{}
		b.sites[site] = s
	}
	s.arrivals = append(s.arrivals, a)
}

// next takes out the site's first arrival, nil when there is none. The caller calls done
// when it has looked into it, and asks for no other one of that site before.
func (b *inbox) next(site string) *arrival {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sites[site]
	if s == nil || len(s.arrivals) == 0 {
		return nil
	}
	a := s.arrivals[0]
	s.arrivals[0], s.arrivals, s.busy = nil, s.arrivals[1:], true
	return a
}

// done notes that what next returned was looked into. It reports whether there is more.
func (b *inbox) done(site string) (more bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sites[site]
	if s.busy = false; len(s.arrivals) == 0 {
		delete(b.sites, site)
		return false
	}
	return true
}

// len is how many arrivals of a site have not been looked into.
func (b *inbox) len(site string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sites[site]
	if s == nil {
		return 0
	}
	if s.busy {
		return len(s.arrivals) + 1
	}
	return len(s.arrivals)
}
