package reported

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/util/wait"
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

// garbage holds the obsolete messages of each site and removes them. It is safe for concurrent
// use.
type garbage struct {
	reported jetstream.Stream
	parts    *orphanParts
	log      *zap.Logger
	rounds   *atomic.Uint64

	mu       sync.Mutex
	last     map[string]uint64
	obsolete map[string][]obsolete
}

func newGarbage(reported jetstream.Stream, parts *orphanParts, log *zap.Logger, rounds *atomic.Uint64) *garbage {
	return &garbage{reported: reported, parts: parts, log: log, rounds: rounds, last: map[string]uint64{}, obsolete: map[string][]obsolete{}}
}

// seen records the highest sequence of each site: that message is never removed, because the
// site's forwarder looks it up.
func (g *garbage) seen(site string, seq uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last[site] = max(g.last[site], seq)
}

// room returns how many more messages of a site can become obsolete.
func (g *garbage) room(site string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maxObsolete - len(g.obsolete[site])
}

// seqs returns the sequences of a site's obsolete messages.
func (g *garbage) seqs(site string) map[uint64]bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	of := make(map[uint64]bool, len(g.obsolete[site]))
	for _, m := range g.obsolete[site] {
		of[m.seq] = true
	}
	return of
}

// add schedules the removal of a message.
func (g *garbage) add(site string, m obsolete) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.obsolete[site] = append(g.obsolete[site], m)
	g.parts.reportRemoved(site)
}

// collect removes obsolete messages from REPORTED, except the last one of each site,
// until ctx ends.
func (g *garbage) collect(ctx context.Context) {
	// floor is the ack floor of the previous round: by now the hub has it on disk.
	var floor uint64
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		for g.removeBatch(ctx, floor) {
		}
		floor = g.refreshFloor(ctx, floor)
		g.rounds.Add(1)
	}, gcInterval)
}

// removeBatch removes up to gcBatch obsolete messages. It reports whether there may be more.
func (g *garbage) removeBatch(ctx context.Context, floor uint64) (more bool) {
	batch := g.takeRemovable(floor)
	for _, seq := range batch {
		err := g.reported.DeleteMsg(ctx, seq)
		if ctx.Err() != nil {
			return false
		}
		if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
			g.log.Debug("cannot remove obsolete report, it stays until the next report of its object", zap.Uint64("seq", seq), zap.Error(err))
		}
	}
	return len(batch) == gcBatch
}

// refreshFloor returns the consumer's ack floor, or known if it is not needed or cannot be
// read.
func (g *garbage) refreshFloor(ctx context.Context, known uint64) uint64 {
	g.mu.Lock()
	idle := len(g.obsolete) == 0
	g.mu.Unlock()
	if idle {
		return known
	}
	floor, err := ackFloor(ctx, g.reported)
	if err != nil {
		g.log.Debug("cannot read the ack floor, obsolete reports are removed later", zap.Error(err))
		return known
	}
	return max(known, floor)
}

// takeRemovable returns up to gcBatch obsolete messages that can be removed if the consumer
// has acknowledged everything up to floor.
func (g *garbage) takeRemovable(floor uint64) []uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	var batch []uint64
	for site, all := range g.obsolete {
		var keep []obsolete
		for _, m := range all {
			if m.seq < g.last[site] && (m.seq <= floor || !m.afterFloor) && len(batch) < gcBatch {
				batch = append(batch, m.seq)
			} else {
				keep = append(keep, m)
			}
		}
		if g.obsolete[site] = keep; len(keep) == 0 {
			delete(g.obsolete, site)
		}
	}
	return batch
}
