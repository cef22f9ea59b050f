package bridge

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
)

// putOffPrefix begins the keys of the bridge's bucket that say from which sequence the
// reports of a site are to be read again.
const deferredPrefix = "reports."

// putOff says that reports of a site were acknowledged, so that they do not take the
// place of others', but not dealt with: too many of them waited, their parts were missing,
// there was no Site, or the API server did not take them for long. They stay in REPORTED,
// each as the newest about its object, and those that are not in memory are read again
// when there is room. The bridge's bucket remembers it.
type deferred struct {
	from uint64
	// since is the first that was put off after the site was read again, 0 for none.
	later uint64
	// read says that all of them have been read again; they are remembered until they have
	// been dealt with.
	reread bool
	// kept is what the bucket's key says, revision the key's.
	stored, revision uint64
}

// errFull ends a read when no more reports of the site may wait.
var errFull = errors.New("too many reports wait")

// stray notes a report of a site without a Site object.
func (c *reportConsumer) noteUnknownSite(site string) {
	c.count.unknownSite.Add(1)
	c.mu.Lock()
	first := !c.unknownSites[site]
	c.unknownSites[site] = true
	c.mu.Unlock()
	if first {
		c.log.Warn("reports of a site without a Site object are not written back", zap.String("site", site))
	}
}

// leave puts a report off and acknowledges it.
func (c *reportConsumer) deferReport(ctx context.Context, site string, a *delivery) {
	err := c.recordDeferred(ctx, site, a.seq, true)
	switch {
	case err == nil:
		c.ack(a.from)
		return
	case ctx.Err() == nil:
		c.log.Debug("report not put off, it comes again", zap.String("site", site), zap.Error(err))
	}
	if a.from != nil {
		c.nak(a.from)
	}
}

// put remembers that the reports of a site from a sequence on are to be read again: with
// again by this bridge, otherwise by the next one only.
func (c *reportConsumer) recordDeferred(ctx context.Context, site string, seq uint64, again bool) error {
	c.deferring.Lock()
	defer c.deferring.Unlock()
	c.mu.Lock()
	p := c.deferred[site]
	if p != nil && p.stored <= seq {
		if again {
			p.add(seq)
		}
		c.mu.Unlock()
		return nil
	}
	c.mu.Unlock()
	kept, revision, err := c.storeDeferred(ctx, deferredKey(site), seq)
	if err != nil {
		return fmt.Errorf("remember reports of site %s: %w", site, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.deferred[site]
	p = &deferred{from: kept, stored: kept, revision: revision, reread: !again && kept == seq && (was == nil || was.reread)}
	if was != nil && was.reread {
		p.later = was.later
	}
	c.deferred[site] = p
	return nil
}

// add notes that a report is to be read again.
func (p *deferred) add(seq uint64) {
	p.later = minNonZero(p.later, seq)
	if !p.reread {
		p.from = min(p.from, seq)
	}
}

// keep has a key say the smaller of seq and what it says, which may be another bridge's,
// in a revision of its own.
func (c *reportConsumer) storeDeferred(ctx context.Context, key string, seq uint64) (kept, revision uint64, err error) {
	if err := c.publish.fence.check(); err != nil {
		return 0, 0, err
	}
	e, err := c.hub.record.Get(ctx, key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		revision, err = c.hub.record.Create(ctx, key, []byte(strconv.FormatUint(seq, 10)))
		return seq, revision, err
	case err != nil:
		return 0, 0, err
	}
	kept = min(seq, deferredFrom(e))
	revision, err = c.hub.record.Update(ctx, key, []byte(strconv.FormatUint(kept, 10)), e.Revision())
	return kept, revision, err
}

// keptBy is what a key says; one that is not understood says that all reports are to be
// read again.
func deferredFrom(e jetstream.KeyValueEntry) uint64 {
	from, err := strconv.ParseUint(string(e.Value()), 10, 64)
	if err != nil {
		return 1
	}
	return from
}

// least is the smaller of two sequences, of which 0 is none.
func minNonZero(a, b uint64) uint64 {
	if a == 0 {
		return b
	}
	return min(a, b)
}

func deferredKey(site string) string { return deferredPrefix + hex.EncodeToString([]byte(site)) }

// recoverPutOff reads what an earlier bridge put off.
func (c *reportConsumer) loadDeferred(ctx context.Context) error {
	keys, err := c.hub.record.ListKeysFiltered(ctx, deferredPrefix+"*")
	if err != nil {
		return fmt.Errorf("read what was put off: %w", err)
	}
	for key := range keys.Keys() {
		site, err := hex.DecodeString(strings.TrimPrefix(key, deferredPrefix))
		if err != nil {
			continue // nobody's
		}
		e, err := c.hub.record.Get(ctx, key)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read what was put off: %w", err)
		}
		from := deferredFrom(e)
		c.mu.Lock()
		c.deferred[string(site)] = &deferred{from: from, stored: from, revision: e.Revision()}
		c.mu.Unlock()
	}
	return nil
}

// isPutOff says whether a report is one of those that are to be read again.
func (c *reportConsumer) isDeferred(site string, seq uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.deferred[site]
	return p != nil && p.stored <= seq
}

// moreToRead reports whether reports of a site were put off that have not been read again
// since.
func (c *reportConsumer) hasUnread(site string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.deferred[site]
	return p != nil && !p.reread
}

// wake has them read without waiting for the next round. It does not block.
func (c *reportConsumer) wake() {
	select {
	case c.wakeCh <- struct{}{}:
	default:
	}
}

// resume reads the reports that were put off, of sites that have a Site and room, and
// forgets those that have been dealt with.
func (c *reportConsumer) resumeDeferred(ctx context.Context) {
	again, over := c.dueReads()
	for s, begun := range again {
		next, err := c.readDeferred(ctx, s, begun.from)
		c.mu.Lock()
		switch p := c.deferred[s]; {
		case p != begun.deferred: // an earlier one was put off meanwhile
		case err == nil:
			p.reread = true
		default:
			p.from = next
		}
		c.mu.Unlock()
		if err != nil && ctx.Err() == nil && !errors.Is(err, errFull) {
			c.log.Warn("reports of a site not read, trying again", zap.String("site", s), zap.Error(err))
		}
	}
	for s, revision := range over {
		// One that was put off meanwhile has another revision, and stays.
		if err := c.hub.record.Delete(ctx, deferredKey(s), jetstream.LastRevision(revision)); err != nil {
			c.log.Debug("reports of a site remembered for longer than needed", zap.String("site", s), zap.Error(err))
		}
	}
}

// rereading is what is to be read again, from a sequence on.
type deferredRead struct {
	deferred *deferred
	from     uint64
}

// due returns from which sequence which sites are to be read again, and takes out those
// that have been dealt with, with the revisions of their keys.
func (c *reportConsumer) dueReads() (again map[string]deferredRead, over map[string]uint64) {
	again, over = map[string]deferredRead{}, map[string]uint64{}
	c.mu.Lock()
	defer c.mu.Unlock()
	for s, p := range c.deferred {
		room, idle := c.reports.room(s), c.inbox.len(s) == 0
		switch {
		case !c.publish.siteExists(s) || !idle:
		case p.reread && p.later > 0:
			p.from, p.later, p.reread = p.later, 0, false
		case p.reread && room == maxWaiting:
			over[s] = p.revision
			delete(c.deferred, s)
		case !p.reread && room > maxWaiting/2:
			again[s] = deferredRead{p, p.from}
			if p.later >= p.from {
				p.later = 0 // this read comes to it; an earlier one waits for the next
			}
			delete(c.unknownSites, s)
		}
	}
	return again, over
}

// readAgain puts the reports of a site from a sequence on, which were acknowledged before,
// into its inbox. With an error it returns from where to go on.
func (c *reportConsumer) readDeferred(ctx context.Context, site string, from uint64) (next uint64, err error) {
	next = from
	n, over := 0, c.obsoleteSeqs(site)
	err = readAll(ctx, c.hub.js, c.hub.reported, from, streams.ReportedFilter(site), false, func(msg jetstream.Msg) error {
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		if _, part := c.track(msg, meta); part {
			return nil
		}
		if _, ref, err := streams.ParseReported(msg.Subject()); err == nil && c.reports.has(reportKey{site, ref}, meta.Sequence.Stream) {
			return nil
		}
		if over[meta.Sequence.Stream] {
			return nil // it was dealt with, and is about to be removed
		}
		next = meta.Sequence.Stream
		if n >= c.reports.room(site) || c.obsoleteRoom(site) <= n {
			return errFull
		}
		n++
		c.inbox.put(site, newDelivery(msg, meta))
		c.sites.Add(site)
		return nil
	})
	return next, err
}
