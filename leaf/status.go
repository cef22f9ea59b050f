package leaf

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/leaf/journal"
	"github.com/petiole-io/petiole/streams"
)

// statusWait bounds the reading of the status. What cannot be read in time counts as 0.
const statusWait = 2 * time.Second

// quarantine counts the messages that a part of the leaf could not read.
type quarantine interface{ Quarantined() uint64 }

// status reads the state of the leaf from its streams.
type status struct {
	js          jetstream.JetStream
	quarantined []quarantine
	drops       *journal.DropLog
	degraded    func() []string
	// refused reports whether the hub refuses reports because it has no room for them.
	refused func() bool
	// setAside returns the record that was set aside last, "" if there is none.
	setAside func() string
	// hubProblems returns what the hub lacks.
	hubProblems func() []string
	// kubelet returns what is wrong with the kubelet, empty if nothing is.
	kubelet func() string
	// skewed returns how far the clock differs from the hub's, empty if it does not.
	skewed func() string
}

// snapshot is the state at one time.
type snapshot struct {
	// pending is the number of messages by stream that the hub has not acknowledged.
	pending map[string]uint64
	// unapplied is the number of messages that the slowest consumer of SITE_DESIRED has not
	// acknowledged.
	unapplied   uint64
	quarantined uint64
	dropped     uint64
	degraded    []string
	// details are sentences about what is degraded.
	details []string
}

func (s *status) read(ctx context.Context) snapshot {
	r := snapshot{pending: map[string]uint64{}, dropped: s.drops.Total()}
	r.degraded, r.details = s.reasons()
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

// reasons returns why the leaf, or the server, the hub or the kubelet that it uses, is degraded, and
// sentences about it.
func (s *status) reasons() (names, details []string) {
	names = s.degraded()
	if acceptsAnybody(s.js.Conn()) {
		names = append(names, streams.DegradedOpen)
	}
	if s.refused() {
		names = append(names, streams.DegradedReportsRefused)
	}
	if what := s.kubelet(); what != "" {
		names, details = append(names, streams.DegradedKubelet), append(details, what)
	}
	if what := s.skewed(); what != "" {
		names, details = append(names, streams.DegradedClock), append(details, what)
	}
	if what := s.setAside(); what != "" {
		names, details = append(names, streams.DegradedSetAside), append(details, what)
	}
	if problems := s.hubProblems(); len(problems) > 0 {
		names, details = append(names, streams.DegradedHub), append(details, problems...)
	}
	slices.Sort(names)
	return names, details[:min(len(details), streams.MaxDetails)]
}

// acceptsAnybody reports whether the server that nc is connected to requires no authentication.
func acceptsAnybody(nc *nats.Conn) bool { return nc.IsConnected() && !nc.AuthRequired() }

// unacknowledged returns the number of messages of a stream that a consumer has not
// acknowledged. Without a forwarder that is all of them; without a device worker it is none.
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
