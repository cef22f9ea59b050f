package leaf

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
)

// statusWait bounds the reading of the status. What cannot be read in time counts as 0.
const statusWait = 2 * time.Second

// degraded names what is wrong with the leaf now. The zero value names nothing. It is
// safe for concurrent use.
type degraded struct {
	mu    sync.Mutex
	names []string
}

// set adds a name or takes it away, and returns whether that changed something.
func (d *degraded) set(name string, on bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	i, have := slices.BinarySearch(d.names, name)
	switch {
	case on && !have:
		d.names = slices.Insert(d.names, i, name)
	case !on && have:
		d.names = slices.Delete(d.names, i, i+1)
	default:
		return false
	}
	return true
}

// list is sorted.
func (d *degraded) list() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.names)
}

// quarantine counts the messages that a part of the leaf could not read.
type quarantine interface{ Quarantined() uint64 }

// status is how the leaf is doing, read from its streams when somebody asks.
type status struct {
	js          jetstream.JetStream
	quarantined []quarantine
	drops       *dropLog
	degraded    *degraded
}

// reading is the status at one time.
type snapshot struct {
	// pending is by stream what waits for the hub's acknowledgement.
	pending map[string]uint64
	// unapplied is what the slowest consumer of SITE_DESIRED has not taken over.
	unapplied   uint64
	quarantined uint64
	dropped     uint64
	degraded    []string
}

func (s *status) read(ctx context.Context) snapshot {
	r := snapshot{pending: map[string]uint64{}, dropped: s.drops.total(), degraded: s.reasons()}
	for _, q := range s.quarantined {
		r.quarantined += q.Quarantined()
	}
	for _, stream := range []string{streams.SiteReported, streams.SiteTelemetry} {
		r.pending[stream] = s.unacknowledged(ctx, stream, streams.ForwardConsumer)
	}
	r.unapplied = s.unacknowledged(ctx, streams.SiteDesired, streams.ApplyConsumer)
	r.unapplied = max(r.unapplied, s.unacknowledged(ctx, streams.SiteDesired, streams.DevicesConsumer))
	return r
}

// waiting is how many messages of a stream a consumer has not acknowledged. Before there
// is a forwarder all wait for it; a device worker that is not there waits for none.
func (s *status) unacknowledged(ctx context.Context, stream, consumer string) uint64 {
	c, err := s.js.Consumer(ctx, stream, consumer)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound) && consumer != streams.DevicesConsumer:
		if all, err := s.js.Stream(ctx, stream); err == nil {
			return all.CachedInfo().State.Msgs
		}
		return 0
	case err != nil:
		return 0
	}
	i := c.CachedInfo()
	return i.NumPending + uint64(i.NumAckPending)
}
