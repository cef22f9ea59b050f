package store

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/internal/logonce"
	"github.com/petiole-io/petiole/leaf/desired"
	"github.com/petiole-io/petiole/leaf/journal"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/inventory"
)

// Desired knows whether SITE_DESIRED holds everything that it should. It is safe for concurrent
// use. Its lock is held while SITE_DESIRED is changed, and while all of it is read: a message that
// is superseded during the reading would count as missing.
type Desired struct {
	sync.Mutex

	site        string
	js          jetstream.JetStream
	checkpoints *journal.Checkpoints
	// liveSetFile lists what SITE_DESIRED held when something was last deleted from it.
	liveSetFile string
	failures    *logonce.Reporter

	complete chan struct{}
	once     sync.Once
	// unreadable is signalled when a reader finds messages that cannot be read.
	unreadable chan struct{}
	// damaged is set if a block was damaged when the server started.
	damaged bool
}

// Complete returns a channel that is closed when SITE_DESIRED holds what it should. Readers who
// act on what is missing wait for it.
func (d *Desired) Complete() <-chan struct{} { return d.complete }

func (d *Desired) isComplete() bool {
	select {
	case <-d.complete:
		return true
	default:
		return false
	}
}

// MarkComplete records that SITE_DESIRED holds what it should.
func (d *Desired) MarkComplete(ctx context.Context) {
	d.once.Do(func() {
		d.failures.Report("checkpoint "+streams.SiteDesired, d.checkpoint(ctx, "", false))
		close(d.complete)
	})
}

// ReportUnreadable tells the supervisor that messages could not be read. It does not block.
func (d *Desired) ReportUnreadable() {
	select {
	case d.unreadable <- struct{}{}:
	default:
	}
}

// recordDamage notes that a block was damaged when the server started.
func (d *Desired) recordDamage() {
	was, _ := d.checkpoints.Get(streams.SiteDesired)
	was.Incomplete, d.damaged = true, true
	d.failures.Report("record that desired state is damaged", d.checkpoints.Put(streams.SiteDesired, was))
	if d.isComplete() {
		d.ReportUnreadable() // there are readers of what was there
	}
}

// inspect reads all of SITE_DESIRED. It returns why it cannot be used, or "" if it can, and whether
// it holds everything that it is known to have held.
func (d *Desired) inspect(ctx context.Context) (reason string, whole bool, err error) {
	d.Lock()
	defer d.Unlock()
	s, err := d.js.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return "", false, fmt.Errorf("open %s: %w", streams.SiteDesired, err)
	}
	info := s.CachedInfo()
	was, known := d.checkpoints.Get(streams.SiteDesired)
	whole = !known || !was.LostBy(info.Created, info.State.LastSeq)
	if d.damaged {
		return "a block is damaged", false, nil
	}
	if info.State.LastSeq == 0 {
		return "", whole, nil
	}
	// The last message of this stream is never removed.
	_, err = s.GetMsg(ctx, info.State.LastSeq)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return "its end is missing", false, nil
	case err != nil:
		return "", false, fmt.Errorf("read the end of %s: %w", streams.SiteDesired, err)
	}
	m := &inventory.Set{}
	err = desired.Read(ctx, s, d.site, false, func(msg jetstream.Msg, _ *jetstream.MsgMetadata) error {
		if e, ok := inventory.EntryOf(msg.Subject(), msg.Headers()); ok {
			m.Add(e)
		}
		return nil
	})
	switch {
	case errors.Is(err, desired.ErrUnreadable):
		return "messages cannot be read", false, nil
	case err != nil:
		return "", false, fmt.Errorf("read %s: %w", streams.SiteDesired, err)
	case whole && was.Digest != "" && was.Last == info.State.LastSeq && was.Digest != m.Digest():
		return "its content differs from what it was at shutdown", false, nil
	}
	return "", whole, nil
}

// checkpoint checkpoints SITE_DESIRED.
func (d *Desired) checkpoint(ctx context.Context, digest string, incomplete bool) error {
	s, err := d.js.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", streams.SiteDesired, err)
	}
	i := s.CachedInfo()
	return d.checkpoints.Put(streams.SiteDesired, journal.Checkpoint{Created: i.Created.UnixNano(), Last: i.State.LastSeq, Digest: digest, Incomplete: incomplete})
}

// checkpointChanged checkpoints SITE_DESIRED if it is complete and has changed.
func (d *Desired) checkpointChanged(ctx context.Context) {
	if !d.isComplete() {
		return
	}
	was, _ := d.checkpoints.Get(streams.SiteDesired)
	if s, err := d.js.Stream(ctx, streams.SiteDesired); err == nil && was.Last != s.CachedInfo().State.LastSeq {
		d.failures.Report("checkpoint "+streams.SiteDesired, d.checkpoint(ctx, "", false))
	}
}

// checkpointContent checkpoints SITE_DESIRED, if it is complete, with the digest of its content.
func (d *Desired) checkpointContent(ctx context.Context, s jetstream.Stream) {
	if !d.isComplete() {
		return
	}
	if m, err := desired.Inventory(ctx, s, d.site); err == nil {
		d.failures.Report("checkpoint "+streams.SiteDesired, d.checkpoint(ctx, m.Digest(), false))
	}
}
