package bridge

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
)

const (
	// trimInterval is how often discarded messages are removed, trimBatch how many of them
	// before it is looked at what was discarded meanwhile.
	gcInterval = time.Second
	gcBatch    = 1000
	// maxSpent is how many messages of a site may wait to be removed before no more of that
	// site are taken in.
	maxObsolete = 20_000
)

// spent is a message of REPORTED that is to be removed.
//
// A hub that is killed after the removal of a subject's newest message may bring its
// predecessor back (docs/decisions/0013). So the state of an object that is in the API
// stays. What is removed has predecessors that are about another UID, or are no state:
// these do no harm when the consumer does not deliver them again, which is so up to its
// floor.
type obsolete struct {
	seq uint64
	// floored says that the consumer's floor must have passed the message.
	afterFloor bool
}

// note returns the site that a message belongs to, and whether it is a part of a report,
// which whoever reads the report reads. It keeps the highest sequence of each site: that
// message is never removed, the site's forwarder expects to find it.
func (c *reportConsumer) track(msg jetstream.Msg, meta *jetstream.MsgMetadata) (site string, part bool) {
	site, err := streams.ReportedSite(msg.Subject())
	if err != nil {
		site = "" // the hub takes it from no site
	} else if streams.IsPart(msg.Subject()) {
		_, _, err := streams.ParsePart(msg.Subject())
		part = err == nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last[site] = max(c.last[site], meta.Sequence.Stream)
	if part {
		c.schedulePartsCheck(site, orphanWait)
	}
	return site, part
}

// full reports whether too many messages of a site wait to be removed.
func (c *reportConsumer) obsoleteFull(site string) bool { return c.obsoleteRoom(site) <= 0 }

// spentRoom is how many more messages of a site may wait to be removed.
func (c *reportConsumer) obsoleteRoom(site string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maxObsolete - len(c.obsolete[site])
}

// spentOf are the messages of a site that wait to be removed.
func (c *reportConsumer) obsoleteSeqs(site string) map[uint64]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := make(map[uint64]bool, len(c.obsolete[site]))
	for _, m := range c.obsolete[site] {
		of[m.seq] = true
	}
	return of
}

// discard marks a message that nobody needs any more.
func (c *reportConsumer) markObsolete(site string, m obsolete) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.obsolete[site] = append(c.obsolete[site], m)
	if _, has := c.parts[site]; has {
		c.schedulePartsCheck(site, orphanWait)
	}
}

// trim removes the discarded messages from REPORTED, except each site's last, until ctx
// ends.
func (c *reportConsumer) collectGarbage(ctx context.Context) {
	// floor is that of the round before, which the hub has on disk by now.
	var floor uint64
	for {
		batch := c.takeRemovable(floor)
		for _, seq := range batch {
			err := c.hub.reported.DeleteMsg(ctx, seq)
			if ctx.Err() != nil {
				return
			}
			if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
				c.log.Debug("report not trimmed, it stays until the next of its object", zap.Uint64("seq", seq), zap.Error(err))
			}
		}
		if len(batch) == gcBatch {
			continue
		}
		next := c.refreshFloor(ctx, floor)
		c.count.gcRounds.Add(1)
		if !sleep(ctx, gcInterval) {
			return
		}
		floor = next
	}
}

// passed is the consumer's floor, or what was known of it when that is not needed or not
// to be had.
func (c *reportConsumer) refreshFloor(ctx context.Context, known uint64) uint64 {
	c.mu.Lock()
	idle := len(c.obsolete) == 0
	c.mu.Unlock()
	if idle {
		return known
	}
	floor, err := c.ackFloor(ctx)
	if err != nil {
		c.log.Debug("reports are trimmed later", zap.Error(err))
		return known
	}
	return max(known, floor)
}

// removable takes up to trimBatch of the discarded messages that may be removed when the
// consumer has acknowledged up to floor.
func (c *reportConsumer) takeRemovable(floor uint64) []uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	var batch []uint64
	for site, all := range c.obsolete {
		var keep []obsolete
		for _, m := range all {
			if m.seq < c.last[site] && (m.seq <= floor || !m.afterFloor) && len(batch) < gcBatch {
				batch = append(batch, m.seq)
			} else {
				keep = append(keep, m)
			}
		}
		if c.obsolete[site] = keep; len(keep) == 0 {
			delete(c.obsolete, site)
		}
	}
	return batch
}
