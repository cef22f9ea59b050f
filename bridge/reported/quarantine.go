package reported

import (
	"context"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/streams"
)

// QUARANTINE is shared by all sites, and drops its oldest messages when it is full. A site has the
// newest quarantineMessages of its own there, each cut to quarantineBytes: less than a sixth of
// the stream.
const (
	quarantineMessages = 1200
	quarantineBytes    = streams.PartBytes
	// quarantineTrim is the number of messages after which those of a site are counted.
	quarantineTrim = 100
)

// quarantine stores the reports that were rejected. It is safe for concurrent use.
type quarantine struct {
	hub *hub.Hub
	log *zap.Logger

	mu sync.Mutex
	// stored is the number of messages of each site since its messages were last counted.
	stored map[string]int
}

func newQuarantine(h *hub.Hub, log *zap.Logger) *quarantine {
	return &quarantine{hub: h, log: log, stored: map[string]int{}}
}

// store stores a report of a site, and removes the site's oldest if it has too many.
func (q *quarantine) store(ctx context.Context, site string, msg *nats.Msg, reason error) error {
	if err := streams.QuarantineMessage(ctx, q.hub.JS, streams.Quarantine, msg.Subject, msg.Header, msg.Data, reason, quarantineBytes); err != nil {
		return err
	}
	if !q.trimDue(site) {
		return nil
	}
	stream, err := q.hub.JS.Stream(ctx, streams.Quarantine)
	if err == nil {
		err = stream.Purge(ctx, jetstream.WithPurgeSubject(streams.QuarantineFilter(site)), jetstream.WithPurgeKeep(quarantineMessages))
	}
	if err != nil {
		// The message is stored: it must not be stored again.
		q.log.Debug("messages of a site in quarantine not trimmed, retrying with the next", zap.String("site", site), zap.Error(err))
		q.trimNext(site)
	}
	return nil
}

// trimNext has the messages of a site counted with the next one.
func (q *quarantine) trimNext(site string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stored[site] = 0
}

// trimDue counts a message of a site. It reports whether those of the site have to be counted.
func (q *quarantine) trimDue(site string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	// The first since the bridge started, too: the number of those before is not known.
	due := q.stored[site]%quarantineTrim == 0
	q.stored[site]++
	return due
}
