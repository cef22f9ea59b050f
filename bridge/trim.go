package bridge

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

const (
	// trimInterval is how often discarded messages are removed, trimBatch how many of them
	// before it is looked at what was discarded meanwhile.
	trimInterval = time.Second
	trimBatch    = 1000
	// maxSpent is how many messages may wait to be removed before no more are taken in.
	maxSpent = 50_000
)

// note keeps the highest sequence of each site. Its message is never removed: the
// site's forwarder expects to find it.
func (i *intake) note(site string, seq uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.last[site] = max(i.last[site], seq)
}

// overloaded says whether too many messages wait to be removed.
func (i *intake) overloaded() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	n := 0
	for _, seqs := range i.spent {
		n += len(seqs)
	}
	return n > maxSpent
}

// discard marks a message that nobody needs any more, such as an accepted event.
func (i *intake) discard(site string, seq uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.spent[site] = append(i.spent[site], seq)
}

// trim removes the discarded messages from REPORTED, except each site's last, until ctx
// ends.
func (i *intake) trim(ctx context.Context) {
	for {
		batch := i.removable()
		for _, seq := range batch {
			err := i.hub.reported.DeleteMsg(ctx, seq)
			if ctx.Err() != nil {
				return
			}
			if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
				i.log.Debug("report not trimmed, it stays until the next of its object", zap.Uint64("seq", seq), zap.Error(err))
			}
		}
		if len(batch) < trimBatch && !pause(ctx, trimInterval) {
			return
		}
	}
}

// removable takes up to trimBatch of the discarded messages that may be removed.
func (i *intake) removable() []uint64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	var batch []uint64
	for site, seqs := range i.spent {
		var keep []uint64
		for _, seq := range seqs {
			if seq < i.last[site] && len(batch) < trimBatch {
				batch = append(batch, seq)
			} else {
				keep = append(keep, seq)
			}
		}
		if i.spent[site] = keep; len(keep) == 0 {
			delete(i.spent, site)
		}
	}
	return batch
}
