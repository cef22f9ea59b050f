package bridge

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
)

// foreignInterval is how often DESIRED is searched for what others wrote.
const externalWritesInterval = 5 * time.Second

// foreign finds what other bridges wrote to DESIRED since this one has read it: a former
// leader whose last message was under way when it stood still, or a later one, which
// deposes this bridge. What a former leader wrote is looked at again.
type externalWrites struct {
	hub     *hub
	publish *publisher
	fence   *fence
	log     *zap.Logger
	count   *counters
	outage  *outage
	// seen is the sequence up to which DESIRED was searched.
	lastSeq uint64
}

// run searches until ctx ends, or returns errHubReplaced when DESIRED has lost messages.
func (f *externalWrites) run(ctx context.Context) error {
	for sleep(ctx, externalWritesInterval) {
		err := f.poll(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errHubReplaced) {
			return err
		}
		f.outage.report(err)
	}
	return nil
}

func (f *externalWrites) poll(ctx context.Context) error {
	info, err := f.hub.desired.Info(ctx)
	if err != nil {
		return fmt.Errorf("read %s: %w", streams.Desired, err)
	}
	switch {
	case info.State.LastSeq < f.lastSeq:
		return errHubReplaced // its store was put back to an older one
	case info.State.LastSeq == f.lastSeq:
		return nil
	}
	term := f.fence.currentTerm()
	err = readAll(ctx, f.hub.js, f.hub.desired, f.lastSeq+1, ">", true, func(msg jetstream.Msg) error {
		if t := streams.TermOf(msg.Headers()); t != term && !streams.IsPart(msg.Subject()) {
			f.handle(msg, t)
		}
		return nil
	})
	if err != nil {
		return err
	}
	f.lastSeq = info.State.LastSeq
	return nil
}

func (f *externalWrites) handle(msg jetstream.Msg, term uint64) {
	site, ref, err := streams.ParseDesired(msg.Subject())
	if err != nil {
		return // not of the contract, and of no site
	}
	meta, err := msg.Metadata()
	if err != nil {
		return
	}
	f.fence.observeTerm(term)
	if f.publish.mergeEntry(site, keyOf(ref), entryOf(msg.Subject(), msg.Headers(), meta.Sequence.Stream)) {
		f.count.externalWrites.Add(1)
		f.log.Warn("desired object was written by another bridge, looking at it again",
			zap.String("site", site), zap.Stringer("object", ref), zap.Uint64("term", term), zap.Uint64("seq", meta.Sequence.Stream))
	}
}

// adopt takes in what DESIRED holds, unless a later message is known, and marks the
// object to be looked at.
func (p *publisher) mergeEntry(site string, k objectKey, e entry) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.desired.entries(site, k)[e.subject].seq >= e.seq {
		return false
	}
	p.desired.put(site, k, e)
	p.markDirty(site).keys[k] = struct{}{}
	return true
}

// settled says whether nothing is being published, or waits to be, for the site.
func (p *publisher) siteIdle(site string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.siteIdleLocked(site)
}

// quiet is settled for a caller that holds the lock.
func (p *publisher) siteIdleLocked(site string) bool {
	return p.dirty[site] == nil && !p.publishing[site]
}
