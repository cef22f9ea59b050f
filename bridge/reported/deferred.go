package reported

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

// deferredPrefix is the prefix of the bucket's keys that hold, for each site, the sequence
// from which its reports must be read again.
const deferredPrefix = "reports."

// deferred marks reports of a site that were acked without being processed, to free the ack
// window that all sites share: because too many waited, parts were missing, the Site did not
// exist, or the API server did not accept them for a long time. They stay in REPORTED, each as
// the newest of its object, and those that are not in memory are read again when there is
// room. The state is also stored in the bridge's bucket.
type deferred struct {
	from uint64
	// later is the first sequence that was deferred after the last read, 0 if there is none.
	later uint64
	// reread is true if all of them have been read again. The entry remains until they have
	// been processed.
	reread bool
	// stored is the value of the bucket's key, revision its revision.
	stored, revision uint64
}

// errFull ends a read when a limit is reached.
var errFull = errors.New("too many reports wait")

// noteUnknownSite counts a report of a site without a Site object, and logs the first.
func (c *consumer) noteUnknownSite(site string) {
	c.Counters.UnknownSite.Add(1)
	c.mu.Lock()
	first := !c.unknownSites[site]
	c.unknownSites[site] = true
	c.mu.Unlock()
	if first {
		c.Log.Warn("reports of a site without a Site object are not written back", zap.String("site", site))
	}
}

// deferReport defers a report and acknowledges it.
func (c *consumer) deferReport(ctx context.Context, site string, d *delivery) {
	err := c.recordDeferred(ctx, site, d.seq, true)
	switch {
	case err == nil:
		c.ack(d.from)
		return
	case ctx.Err() == nil:
		c.Log.Debug("report not deferred, it will be redelivered", zap.String("site", site), zap.Error(err))
	}
	if d.from != nil {
		c.nak(d.from)
	}
}

// recordDeferred records that the reports of a site must be read again from a sequence on: by
// this bridge if again is true, otherwise only after a restart.
func (c *consumer) recordDeferred(ctx context.Context, site string, seq uint64, again bool) error {
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
		return fmt.Errorf("record deferred reports of site %s: %w", site, err)
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

// add records that a report must be read again.
func (d *deferred) add(seq uint64) {
	d.later = minNonZero(d.later, seq)
	if !d.reread {
		d.from = min(d.from, seq)
	}
}

// storeDeferred lowers the key's value to seq, unless it is already lower, which another
// bridge may have done. It writes a new revision in either case.
func (c *consumer) storeDeferred(ctx context.Context, key string, seq uint64) (kept, revision uint64, err error) {
	if err := c.Fence.Check(); err != nil {
		return 0, 0, err
	}
	e, err := c.Hub.Bucket.Get(ctx, key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		revision, err = c.Hub.Bucket.Create(ctx, key, []byte(strconv.FormatUint(seq, 10)))
		return seq, revision, err
	case err != nil:
		return 0, 0, err
	}
	kept = min(seq, deferredFrom(e))
	revision, err = c.Hub.Bucket.Update(ctx, key, []byte(strconv.FormatUint(kept, 10)), e.Revision())
	return kept, revision, err
}

// deferredFrom returns the value of a key. If it is invalid, all reports are read again.
func deferredFrom(e jetstream.KeyValueEntry) uint64 {
	from, err := strconv.ParseUint(string(e.Value()), 10, 64)
	if err != nil {
		return 1
	}
	return from
}

// minNonZero returns the smaller of two sequences, where 0 means none.
func minNonZero(a, b uint64) uint64 {
	if a == 0 {
		return b
	}
	return min(a, b)
}

func deferredKey(site string) string { return deferredPrefix + hex.EncodeToString([]byte(site)) }

// loadDeferred reads what an earlier bridge deferred.
func (c *consumer) loadDeferred(ctx context.Context) error {
	keys, err := c.Hub.Bucket.ListKeysFiltered(ctx, deferredPrefix+"*")
	if err != nil {
		return fmt.Errorf("read deferred reports: %w", err)
	}
	for key := range keys.Keys() {
		site, err := hex.DecodeString(strings.TrimPrefix(key, deferredPrefix))
		if err != nil {
			continue // not a key of ours
		}
		e, err := c.Hub.Bucket.Get(ctx, key)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read deferred reports: %w", err)
		}
		from := deferredFrom(e)
		c.mu.Lock()
		c.deferred[string(site)] = &deferred{from: from, stored: from, revision: e.Revision()}
		c.mu.Unlock()
	}
	return nil
}

// isDeferred reports whether a report is among those that must be read again.
func (c *consumer) isDeferred(site string, seq uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.deferred[site]
	return p != nil && p.stored <= seq
}

// hasUnread reports whether a site has deferred reports that have not been read again.
func (c *consumer) hasUnread(site string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.deferred[site]
	return p != nil && !p.reread
}

// wake starts the next read of deferred reports at once. It does not block.
func (c *consumer) wake() {
	select {
	case c.wakeCh <- struct{}{}:
	default:
	}
}

// resumeDeferred reads the deferred reports of sites that have a Site object and room, and
// drops the entries whose reports have been processed.
func (c *consumer) resumeDeferred(ctx context.Context) {
	again, finished := c.dueReads()
	for s, read := range again {
		next, err := c.readDeferred(ctx, s, read.from)
		c.mu.Lock()
		switch p := c.deferred[s]; {
		case p != read.deferred: // an earlier report was deferred meanwhile
		case err == nil:
			p.reread = true
		default:
			p.from = next
		}
		c.mu.Unlock()
		if err != nil && ctx.Err() == nil && !errors.Is(err, errFull) {
			c.Log.Warn("cannot read deferred reports of a site, retrying", zap.String("site", s), zap.Error(err))
		}
	}
	for s, revision := range finished {
		// If a report was deferred meanwhile, the key has another revision and stays.
		if err := c.Hub.Bucket.Delete(ctx, deferredKey(s), jetstream.LastRevision(revision)); err != nil {
			c.Log.Debug("cannot delete the record of deferred reports", zap.String("site", s), zap.Error(err))
		}
	}
}

// deferredRead is a pending read of a site's reports from a sequence on.
type deferredRead struct {
	deferred *deferred
	from     uint64
}

// dueReads returns the reads that are due by site. It removes the entries whose reports have
// been processed and returns the revisions of their keys.
func (c *consumer) dueReads() (again map[string]deferredRead, finished map[string]uint64) {
	again, finished = map[string]deferredRead{}, map[string]uint64{}
	c.mu.Lock()
	defer c.mu.Unlock()
	for s, p := range c.deferred {
		room, idle := c.reports.room(s), c.inbox.len(s) == 0
		switch {
		case !c.Sites.SiteExists(s) || !idle:
		case p.reread && p.later > 0:
			p.from, p.later, p.reread = p.later, 0, false
		case p.reread && room == maxWaiting:
			finished[s] = p.revision
			delete(c.deferred, s)
		case !p.reread && room > maxWaiting/2:
			again[s] = deferredRead{p, p.from}
			if p.later >= p.from {
				p.later = 0 // this read includes it; an earlier one waits for the next read
			}
			delete(c.unknownSites, s)
		}
	}
	return again, finished
}

// readDeferred reads acknowledged reports of a site, from a sequence on, into its inbox. If it
// returns an error, next is where to continue.
func (c *consumer) readDeferred(ctx context.Context, site string, from uint64) (next uint64, err error) {
	next = from
	n, skip := 0, c.obsoleteSeqs(site)
	err = c.Hub.ReadAll(ctx, c.Hub.Reported, from, streams.ReportedFilter(site), false, func(msg jetstream.Msg) error {
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		if _, part := c.track(msg, meta); part {
			return nil
		}
		if _, ref, err := streams.ParseReported(msg.Subject()); err == nil && c.reports.has(Key{site, ref}, meta.Sequence.Stream) {
			return nil
		}
		if skip[meta.Sequence.Stream] {
			return nil // processed, and waiting for removal
		}
		next = meta.Sequence.Stream
		if n >= c.reports.room(site) || c.obsoleteRoom(site) <= n {
			return errFull
		}
		n++
		c.inbox.put(site, newDelivery(msg, meta))
		c.SiteQueue.Add(site)
		return nil
	})
	return next, err
}
