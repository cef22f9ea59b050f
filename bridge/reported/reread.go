package reported

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
)

// errFull ends a read when a limit is reached.
var errFull = errors.New("too many reports wait")

// noteUnknownSite counts a report of a site without a Site object, and logs the first.
func (c *consumer) noteUnknownSite(site string) {
	c.Counters.UnknownSite.Add(1)
	if _, known := c.unknownSites.LoadOrStore(site, true); !known {
		c.Log.Warn("reports of a site without a Site object are not written back", zap.String("site", site))
	}
}

// deferReport defers a report and acknowledges it.
func (c *consumer) deferReport(ctx context.Context, site string, d *delivery) {
	err := c.deferrals.record(ctx, site, d.seq, true)
	switch {
	case err == nil:
		c.window.ack(d.from)
		return
	case ctx.Err() == nil:
		c.Log.Debug("report not deferred, it will be redelivered", zap.String("site", site), zap.Error(err))
	}
	if d.from != nil {
		c.window.nak(d.from)
	}
}

// wake starts the next read of deferred reports at once. It does not block.
func (c *consumer) wake() {
	select {
	case c.wakeCh <- struct{}{}:
	default:
	}
}

// resumeDeferred reads the deferred reports of sites that have a Site object and room, and
// drops the entries whose reports have been processed.
func (c *consumer) resumeDeferred(ctx context.Context) {
	idle := func(site string) bool { return c.Sites.SiteExists(site) && c.inbox.len(site) == 0 }
	again, finished := c.deferrals.dueReads(idle, c.reports.room)
	for s, read := range again {
		c.unknownSites.Delete(s)
		next, err := c.readDeferred(ctx, s, read.from)
		c.deferrals.done(s, read, next, err)
		if err != nil && ctx.Err() == nil && !errors.Is(err, errFull) {
			c.Log.Warn("cannot read deferred reports of a site, retrying", zap.String("site", s), zap.Error(err))
		}
	}
	for s, revision := range finished {
		if err := c.deferrals.forget(ctx, s, revision); err != nil {
			c.Log.Debug("cannot delete the record of deferred reports", zap.String("site", s), zap.Error(err))
		}
	}
}

// readDeferred reads acknowledged reports of a site, from a sequence on, into its inbox. If it
// returns an error, next is where to continue.
func (c *consumer) readDeferred(ctx context.Context, site string, from uint64) (next uint64, err error) {
	next = from
	n, skip := 0, c.garbage.seqs(site)
	err = c.Hub.ReadAll(ctx, c.Hub.Reported, from, streams.ReportedFilter(site), false, func(msg jetstream.Msg) error {
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		if _, part := c.track(msg, meta); part {
			return nil
		}
		if _, ref, err := streams.ParseReported(msg.Subject()); err == nil && c.reports.has(Key{site, ref}, meta.Sequence.Stream) {
			return nil
		}
		if skip[meta.Sequence.Stream] {
			return nil // processed, and waiting for removal
		}
		next = meta.Sequence.Stream
		if n >= c.reports.room(site) || c.garbage.room(site) <= n {
			return errFull
		}
		n++
		c.inbox.put(site, newDelivery(msg, meta))
		c.SiteQueue.Add(site)
		return nil
	})
	return next, err
}
