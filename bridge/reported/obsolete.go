package reported

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/petiole-io/petiole/streams"
)

const (
	// gcInterval is the time between two removals of obsolete messages, gcBatch the number of
	// deletions between two looks at the list.
	gcInterval = time.Second
	gcBatch    = 1000
	// maxObsolete is the number of obsolete messages of a site above which no more of its
	// messages are accepted.
	maxObsolete = 20_000
)

// obsolete is a message of REPORTED that can be removed.
//
// A hub that is killed after the removal of a subject's newest message may restore the
// previous one (docs/upstream.md, 7). Therefore the state of an existing object is never
// removed. What is removed has predecessors that are about another UID or are not a state;
// they do no harm unless the consumer delivers them again, which it does not up to its ack
// floor.
type obsolete struct {
	seq uint64
	// afterFloor delays the removal until the consumer's ack floor has passed the message.
	afterFloor bool
}

// track returns the site of a message, and whether it is a part, which is read together with
// its report. It also records the highest sequence of each site: that message is never
// removed, because the site's forwarder looks it up.
func (c *consumer) track(msg jetstream.Msg, meta *jetstream.MsgMetadata) (site string, part bool) {
	site, err := streams.ReportedSite(msg.Subject())
	if err != nil {
		site = "" // sites cannot publish such a subject
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

// obsoleteFull reports whether a site has reached maxObsolete.
func (c *consumer) obsoleteFull(site string) bool { return c.obsoleteRoom(site) <= 0 }

// obsoleteRoom returns how many more messages of a site can become obsolete.
func (c *consumer) obsoleteRoom(site string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maxObsolete - len(c.obsolete[site])
}

// obsoleteSeqs returns the sequences of a site's obsolete messages.
func (c *consumer) obsoleteSeqs(site string) map[uint64]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := make(map[uint64]bool, len(c.obsolete[site]))
	for _, m := range c.obsolete[site] {
		of[m.seq] = true
	}
	return of
}

// markObsolete schedules the removal of a message.
func (c *consumer) markObsolete(site string, m obsolete) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.obsolete[site] = append(c.obsolete[site], m)
	if _, has := c.parts[site]; has {
		c.schedulePartsCheck(site, orphanWait)
	}
}

// collectGarbage removes obsolete messages from REPORTED, except the last one of each site,
// until ctx ends.
func (c *consumer) collectGarbage(ctx context.Context) {
	// floor is the ack floor of the previous round: by now the hub has it on disk.
	var floor uint64
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		for c.removeBatch(ctx, floor) {
		}
		floor = c.refreshFloor(ctx, floor)
		c.Counters.GCRounds.Add(1)
	}, gcInterval)
}

// removeBatch removes up to gcBatch obsolete messages. It reports whether there may be more.
func (c *consumer) removeBatch(ctx context.Context, floor uint64) (more bool) {
	batch := c.takeRemovable(floor)
	for _, seq := range batch {
		err := c.Hub.Reported.DeleteMsg(ctx, seq)
		if ctx.Err() != nil {
			return false
		}
		if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
			c.Log.Debug("cannot remove obsolete report, it stays until the next report of its object", zap.Uint64("seq", seq), zap.Error(err))
		}
	}
	return len(batch) == gcBatch
}

// refreshFloor returns the consumer's ack floor, or known if it is not needed or cannot be
// read.
func (c *consumer) refreshFloor(ctx context.Context, known uint64) uint64 {
	c.mu.Lock()
	idle := len(c.obsolete) == 0
	c.mu.Unlock()
	if idle {
		return known
	}
	floor, err := c.ackFloor(ctx)
	if err != nil {
		c.Log.Debug("cannot read the ack floor, obsolete reports are removed later", zap.Error(err))
		return known
	}
	return max(known, floor)
}

// takeRemovable returns up to gcBatch obsolete messages that can be removed if the consumer
// has acknowledged everything up to floor.
func (c *consumer) takeRemovable(floor uint64) []uint64 {
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
