package forward

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/leaf/journal"
	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams"
)

const (
	// largeBytes is the size above which a record that the line does not carry is set aside, after
	// largeAttempts: every supported line carries a smaller one between two pings.
	largeBytes    = 4 * streams.PartBytes
	largeAttempts = 5
	// payloadRoom is the part of max_payload that is left for headers that a batch adds.
	payloadRoom = 1 << 10
	// asideTime is how long the leaf reports that a record was set aside.
	asideTime = 24 * time.Hour
)

// largeRecord counts the attempts to send one large message.
type largeRecord struct {
	seq      uint64
	attempts int
}

// sent takes note of how the commit of a batch up to seq ended. An attempt counts if the message
// was alone, and its session ended or nobody answered in time: the hub is there and refuses
// nothing, but the line did not carry it.
func (l *largeRecord) sent(ctx context.Context, out []*nats.Msg, seq uint64, err error) {
	switch {
	case err == nil:
		*l = largeRecord{}
	case len(out) != 1 || out[0].Size() <= largeBytes || ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded):
	case l.seq == seq:
		l.attempts++
	default:
		*l = largeRecord{seq: seq, attempts: 1}
	}
}

// unsendable returns why a message can never reach the hub, which takes most bytes, or nil.
func (l *largeRecord) unsendable(msg *nats.Msg, seq uint64, most int) error {
	size := msg.Size()
	switch {
	case size > most-payloadRoom:
		return fmt.Errorf("%d bytes are more than max_payload, %d, allows", size, most)
	case l.seq == seq && l.attempts >= largeAttempts:
		return fmt.Errorf("the line did not carry %d bytes in %d attempts", size, l.attempts)
	}
	return nil
}

// Aside is what was set aside. It is safe for concurrent use.
type Aside struct {
	mu   sync.Mutex
	last time.Time
	what string
}

// Last returns the last record that was set aside and why, "" if that is long ago.
func (a *Aside) Last() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last.IsZero() || time.Since(a.last) > asideTime {
		return ""
	}
	return a.what
}

func (a *Aside) set(what string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last, a.what = time.Now(), what[:min(len(what), streams.MaxDetail)]
}

// setAside stores a record that cannot be sent in SITE_QUARANTINE and returns the gap record that
// takes its place at the hub.
func setAside(ctx context.Context, f *Forwarder, r *session, m *nats.Msg, seq uint64, reason error) (*nats.Msg, error) {
	storing, cancel := context.WithTimeout(ctx, transfer.HubWait)
	defer cancel()
	if err := streams.QuarantineMessage(storing, f.cfg.JS, streams.SiteQuarantine, m.Subject, withoutInstructions(m.Header), m.Data, reason, 0); err != nil {
		return nil, err
	}
	what := fmt.Sprintf("record %d on %s is in %s: %s", seq, m.Subject, streams.SiteQuarantine, reason)
	f.Aside.set(what)
	f.large = largeRecord{}
	f.cfg.Counters.setAside.Inc()
	f.cfg.Log.Warn("a record that cannot be sent was set aside", zap.String("subject", m.Subject), zap.Uint64("seq", seq), zap.String("stream", streams.SiteQuarantine), zap.Error(reason))
	lost := journal.Range{From: seq, To: seq}
	f.logUnsaved(f.cfg.Drops.CountDropped(f.cfg.Stream, r.timeline, streams.GapSetAside, lost))
	return gapMessage(f.cfg.Site, f.cfg.Stream, r.timeline, lost, streams.GapSetAside)
}
