package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/internal/logonce"
	"github.com/petiole-io/petiole/leaf/desired"
	"github.com/petiole-io/petiole/streams"
)

const (
	// compactionInterval is the time between two compactions.
	compactionInterval = time.Hour
	// compactionChunk is how many messages are deleted before a batch of the hub gets its turn.
	compactionChunk = 500
)

// garbage collects the messages that can be deleted from SITE_DESIRED: tombstones that every
// consumer has processed, and parts of large objects that no longer exist.
type garbage struct {
	seqs []uint64
	// floor is the sequence up to which every consumer has acknowledged, last the end of the
	// stream.
	floor, last uint64
	before      time.Time
	// live holds the objects whose parts are needed; objects without parts are not in it.
	live  map[string]bool
	parts []struct {
		object string
		seq    uint64
	}
	// seen are the sequences of all messages.
	seen []uint64
}

// add examines one message, in stream order.
func (g *garbage) add(msg jetstream.Msg, md *jetstream.MsgMetadata) {
	seq, subject := md.Sequence.Stream, msg.Subject()
	g.seen = append(g.seen, seq)
	old := seq <= g.floor && seq != g.last && md.Timestamp.Before(g.before)
	h := msg.Headers()
	switch {
	case streams.IsPart(subject):
		if old {
			g.parts = append(g.parts, struct {
				object string
				seq    uint64
			}{streams.ObjectSubject(subject), seq})
		}
	case h.Get(streams.HeaderOp) != string(streams.OpDelete):
		if h.Get(streams.HeaderParts) != "" {
			g.live[subject] = true
		}
	case old:
		g.seqs = append(g.seqs, seq)
	}
}

// sequences returns the messages that can be deleted.
func (g *garbage) sequences() []uint64 {
	for _, p := range g.parts {
		if !g.live[p.object] {
			g.seqs = append(g.seqs, p.seq)
		}
	}
	return g.seqs
}

// compactor deletes the messages of SITE_DESIRED that nobody needs any longer, and those that a
// rebuilt store has brought back.
type compactor struct {
	site string
	js   jetstream.JetStream
	// storing is held while SITE_DESIRED is changed, and while all of it is read.
	storing sync.Locker
	// liveSetFile lists what SITE_DESIRED held when something was last deleted from it.
	liveSetFile string
	compacted   prometheus.Counter
	failures    *logonce.Reporter
	log         *zap.Logger
}

// run deletes old tombstones until ctx ends.
func (cp *compactor) run(ctx context.Context) error {
	tick := time.NewTicker(compactionInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		n, err := cp.compact(ctx, desired.TombstoneRetention)
		if cp.failures.Report("compact "+streams.SiteDesired, err); n > 0 {
			cp.log.Info("tombstones removed", zap.Int("count", n))
			cp.compacted.Add(float64(n))
		}
	}
}

// compact deletes the garbage of SITE_DESIRED that is older than life, and returns the number of deleted messages.
// The last message always stays, because it holds the position of the site. The live set is
// written before anything is deleted.
func (cp *compactor) compact(ctx context.Context, life time.Duration) (n int, err error) {
	s, err := cp.js.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return 0, fmt.Errorf("look up stream %s: %w", streams.SiteDesired, err)
	}
	seqs, err := cp.findGarbage(ctx, s, time.Now().Add(-life))
	if err != nil {
		return 0, err
	}
	for chunk := range slices.Chunk(seqs, compactionChunk) {
		m, err := cp.deleteMessages(ctx, s, chunk)
		if n += m; err != nil {
			return n, err
		}
	}
	return n, nil
}

// findGarbage returns the messages that can be deleted, if there are any after it has written the
// live set without them. Both are done under the lock: Erase may write a newer live set next.
func (cp *compactor) findGarbage(ctx context.Context, s jetstream.Stream, before time.Time) ([]uint64, error) {
	cp.storing.Lock()
	defer cp.storing.Unlock()
	info, err := s.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("look up stream %s: %w", streams.SiteDesired, err)
	}
	g := garbage{last: info.State.LastSeq, floor: math.MaxUint64, before: before, live: map[string]bool{}}
	consumers := s.ListConsumers(ctx)
	for c := range consumers.Info() {
		if c.Config.Durable != "" {
			g.floor = min(g.floor, processedThrough(c, g.last))
		}
	}
	if err := consumers.Err(); err != nil {
		return nil, fmt.Errorf("list consumers of %s: %w", streams.SiteDesired, err)
	}
	if g.floor == math.MaxUint64 || g.floor == 0 {
		return nil, nil // nobody has read anything yet
	}
	err = desired.Read(ctx, s, cp.site, true, func(msg jetstream.Msg, md *jetstream.MsgMetadata) error {
		g.add(msg, md)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", streams.SiteDesired, err)
	}
	seqs := g.sequences()
	if len(seqs) == 0 {
		return nil, nil
	}
	return seqs, newLiveSet(info, g.seen, seqs).write(cp.liveSetFile)
}

// deleteMessages deletes messages. Those that were superseded meanwhile no longer exist, which
// is no error.
func (cp *compactor) deleteMessages(ctx context.Context, s jetstream.Stream, seqs []uint64) (n int, err error) {
	cp.storing.Lock()
	defer cp.storing.Unlock()
	for _, seq := range seqs {
		err := s.DeleteMsg(ctx, seq)
		switch {
		case errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful), errors.Is(err, jetstream.ErrMsgNotFound):
		case err != nil:
			return n, fmt.Errorf("remove message %d of %s: %w", seq, streams.SiteDesired, err)
		default:
			n++
		}
	}
	return n, nil
}

// processedThrough returns the sequence up to which a consumer has acknowledged everything that
// concerns it.
func processedThrough(c *jetstream.ConsumerInfo, last uint64) uint64 {
	if c.NumPending == 0 && c.NumAckPending == 0 {
		return last
	}
	return c.AckFloor.Stream
}
