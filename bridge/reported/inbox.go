package reported

import (
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// delivery is a message of REPORTED that was delivered, or read again, and has not been
// processed.
type delivery struct {
	subject string
	header  nats.Header
	data    []byte
	seq     uint64
	stored  time.Time
	// from is the message to acknowledge, nil if it has been acknowledged.
	from jetstream.Msg
}

func newDelivery(msg jetstream.Msg, meta *jetstream.MsgMetadata) *delivery {
	return &delivery{subject: msg.Subject(), header: msg.Headers(), data: msg.Data(), seq: meta.Sequence.Stream, stored: meta.Timestamp}
}

// inbox holds the unprocessed messages of each site in order. Processing may need requests to
// the hub; with one inbox per site, it holds up that site only. It does no I/O and is safe for
// concurrent use.
type inbox struct {
	mu    sync.Mutex
	sites map[string]*siteInbox
}

type siteInbox struct {
	deliveries []*delivery
	// busy reports whether a message of the site is being read.
	busy bool
}

func newInbox() *inbox { return &inbox{sites: map[string]*siteInbox{}} }

func (b *inbox) put(site string, d *delivery) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sites[site]
	if s == nil {
		s = &siteInbox{}
		b.sites[site] = s
	}
	s.deliveries = append(s.deliveries, d)
}

// next removes and returns the site's first message, nil if there is none. The caller must
// call done before it calls next for that site again.
func (b *inbox) next(site string) *delivery {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sites[site]
	if s == nil || len(s.deliveries) == 0 {
		return nil
	}
	d := s.deliveries[0]
	s.deliveries[0], s.deliveries, s.busy = nil, s.deliveries[1:], true
	return d
}

// done marks the message that next returned as processed. It reports whether there are more.
func (b *inbox) done(site string) (more bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sites[site]
	if s.busy = false; len(s.deliveries) == 0 {
		delete(b.sites, site)
		return false
	}
	return true
}

// len returns the number of unprocessed messages of a site.
func (b *inbox) len(site string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sites[site]
	if s == nil {
		return 0
	}
	if s.busy {
		return len(s.deliveries) + 1
	}
	return len(s.deliveries)
}
