package forward

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/traffic"
)

// eventsWait reports whether the site's budget holds Events back at the moment.
func eventsWait(f *Forwarder) bool {
	if f.cfg.Stream != streams.SiteReported || f.cfg.Level == nil {
		return false
	}
	level := f.cfg.Level()
	return level == traffic.SamplesWait || level == traffic.ReportsWait
}

// passOver goes on behind an Event, or a part of one, so that status does not wait for it. From
// where on Events wait is on disk first: the next session begins behind what the hub has, which may
// be status that follows them. They stay in the site's stream, see storeEventsAgain.
func passOver(f *Forwarder, r *session, event []jetstream.Msg, seq uint64) error {
	begins, err := f.cfg.Drops.SetEventsWait(f.cfg.Stream, r.timeline, seq)
	if err != nil {
		return err
	}
	if begins {
		f.cfg.Log.Info("Events wait at the site because of its budget", zap.Uint64("from", seq))
	}
	f.cfg.Counters.eventsPassedOver.Inc()
	return f.acknowledge(event)
}

// storeEventsAgain stores the Events that were passed over again, at the end of the site's stream
// and in their order, once the budget allows them. If the leaf ends meanwhile, the next session
// does the same with those that are not superseded by then.
func storeEventsAgain(ctx context.Context, f *Forwarder, r *session) error {
	if eventsWait(f) || !f.cfg.Drops.EventsWait(f.cfg.Stream) {
		return nil
	}
	stored := 0
	for next := f.cfg.Drops.FirstWaitingEvent(f.cfg.Stream, r.timeline); ; {
		m, err := r.stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(streams.LocalEventsFilter))
		if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
			return fmt.Errorf("read Events of %s that wait: %w", f.cfg.Stream, err)
		}
		if err != nil || m.Sequence >= r.next {
			break // those that follow are delivered in their turn
		}
		if next = m.Sequence + 1; streams.IsPart(m.Subject) {
			continue
		}
		seq, err := f.storeAgain(ctx, r, m.Subject)
		if err != nil {
			return err
		}
		if seq > 0 {
			stored++
		}
	}
	f.cfg.Log.Info("Events that waited because of the budget are sent", zap.Int("events", stored))
	return f.cfg.Drops.ClearEventsWait(f.cfg.Stream)
}

// endWithBudget cancels a wait for the next report once the Events that were passed over may be sent.
func endWithBudget(ctx context.Context, f *Forwarder, cancel context.CancelFunc) {
	for eventsWait(f) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(budgetPoll):
		}
	}
	cancel()
}
