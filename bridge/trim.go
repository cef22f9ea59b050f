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
	trimInterval = time.Second
	trimBatch    = 1000
	// maxSpent is how many messages of a site may wait to be removed before no more of that
	// site are taken in.
	maxSpent = 20_000
)

// spent is a message of REPORTED that is to be removed.
//
// A hub that is killed after the removal of a subject's newest message may bring its
// predecessor back (docs/decisions/0013). So the state of an object that is in the API
// stays. What is removed has predecessors that are about another UID, or are no state:
// these do no harm when the consumer does not deliver them again, which is so up to its
// floor.
type spent struct {
	seq uint64
	// floored says that the consumer's floor must have passed the message.
	floored bool
}

// note returns the site that a message belongs to, and whether it is a part of a report,
// which whoever reads the report reads. It keeps the highest sequence of each site: that
// message is never removed, the site's forwarder expects to find it.
func (i *intake) note(msg jetstream.Msg, meta *jetstream.MsgMetadata) (site string, part bool) {
	site, err := streams.ReportedSite(msg.Subject())
	if err != nil {
		site = "" // the hub takes it from no site
	} else if streams.IsPart(msg.Subject()) {
		_, _, err := streams.ParsePart(msg.Subject())
		part = err == nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.last[site] = max(i.last[site], meta.Sequence.Stream)
	if part {
		i.partsDue(site, orphanWait)
	}
	return site, part
}

// full reports whether too many messages of a site wait to be removed.
func (i *intake) full(site string) bool { return i.spentRoom(site) <= 0 }

// spentRoom is how many more messages of a site may wait to be removed.
func (i *intake) spentRoom(site string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return maxSpent - len(i.spent[site])
}

// spentOf are the messages of a site that wait to be removed.
func (i *intake) spentOf(site string) map[uint64]bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	of := make(map[uint64]bool, len(i.spent[site]))
	for _, m := range i.spent[site] {
		of[m.seq] = true
	}
	return of
}

// discard marks a message that nobody needs any more.
func (i *intake) discard(site string, m spent) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.spent[site] = append(i.spent[site], m)
	if _, has := i.parts[site]; has {
		i.partsDue(site, orphanWait)
	}
}

// trim removes the discarded messages from REPORTED, except each site's last, until ctx
// ends.
func (i *intake) trim(ctx context.Context) {
	// floor is that of the round before, which the hub has on disk by now.
	var floor uint64
	for {
		batch := i.removable(floor)
		for _, seq := range batch {
			err := i.hub.reported.DeleteMsg(ctx, seq)
			if ctx.Err() != nil {
				return
			}
			if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
				i.log.Debug("report not trimmed, it stays until the next of its object", zap.Uint64("seq", seq), zap.Error(err))
			}
		}
		if len(batch) == trimBatch {
			continue
		}
		next := i.passed(ctx, floor)
		i.count.trims.Add(1)
		if !pause(ctx, trimInterval) {
			return
		}
		floor = next
	}
}

// passed is the consumer's floor, or what was known of it when that is not needed or not
// to be had.
func (i *intake) passed(ctx context.Context, known uint64) uint64 {
	i.mu.Lock()
	idle := len(i.spent) == 0
	i.mu.Unlock()
	if idle {
		return known
	}
	floor, err := i.floor(ctx)
	if err != nil {
		i.log.Debug("reports are trimmed later", zap.Error(err))
		return known
	}
	return max(known, floor)
}

// removable takes up to trimBatch of the discarded messages that may be removed when the
// consumer has acknowledged up to floor.
func (i *intake) removable(floor uint64) []uint64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	var batch []uint64
	for site, all := range i.spent {
		var keep []spent
		for _, m := range all {
			if m.seq < i.last[site] && (m.seq <= floor || !m.floored) && len(batch) < trimBatch {
				batch = append(batch, m.seq)
			} else {
				keep = append(keep, m)
			}
		}
		if i.spent[site] = keep; len(keep) == 0 {
			delete(i.spent, site)
		}
	}
	return batch
}
