package reported

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/bridge/lease"
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

// deferrals holds the deferred reports of each site, in memory and in the bridge's bucket. It is
// safe for concurrent use.
type deferrals struct {
	bucket jetstream.KeyValue
	fence  *lease.Fence

	// storing is held while the bucket is changed.
	storing sync.Mutex
	mu      sync.Mutex
	sites   map[string]*deferred
}

func newDeferrals(bucket jetstream.KeyValue, fence *lease.Fence) *deferrals {
	return &deferrals{bucket: bucket, fence: fence, sites: map[string]*deferred{}}
}

// record records that the reports of a site must be read again from a sequence on: by
// this bridge if again is true, otherwise only after a restart.
func (d *deferrals) record(ctx context.Context, site string, seq uint64, again bool) error {
	d.storing.Lock()
	defer d.storing.Unlock()
	d.mu.Lock()
	p := d.sites[site]
	if p != nil && p.stored <= seq {
		if again {
			p.add(seq)
		}
		d.mu.Unlock()
		return nil
	}
	d.mu.Unlock()
	kept, revision, err := d.store(ctx, deferredKey(site), seq)
	if err != nil {
		return fmt.Errorf("record deferred reports of site %s: %w", site, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.sites[site]
	p = &deferred{from: kept, stored: kept, revision: revision, reread: !again && kept == seq && (was == nil || was.reread)}
	if was != nil && was.reread {
		p.later = was.later
	}
	d.sites[site] = p
	return nil
}

// add records that a report must be read again.
func (d *deferred) add(seq uint64) {
	d.later = minNonZero(d.later, seq)
	if !d.reread {
		d.from = min(d.from, seq)
	}
}

// store lowers the key's value to seq, unless it is already lower, which another
// bridge may have done. It writes a new revision in either case.
func (d *deferrals) store(ctx context.Context, key string, seq uint64) (kept, revision uint64, err error) {
	if err := d.fence.Check(); err != nil {
		return 0, 0, err
	}
	e, err := d.bucket.Get(ctx, key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		revision, err = d.bucket.Create(ctx, key, []byte(strconv.FormatUint(seq, 10)))
		return seq, revision, err
	case err != nil:
		return 0, 0, err
	}
	kept = min(seq, deferredFrom(e))
	revision, err = d.bucket.Update(ctx, key, []byte(strconv.FormatUint(kept, 10)), e.Revision())
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

// load reads what an earlier bridge deferred.
func (d *deferrals) load(ctx context.Context) error {
	keys, err := d.bucket.ListKeysFiltered(ctx, deferredPrefix+"*")
	if err != nil {
		return fmt.Errorf("read deferred reports: %w", err)
	}
	for key := range keys.Keys() {
		site, err := hex.DecodeString(strings.TrimPrefix(key, deferredPrefix))
		if err != nil {
			continue // not a key of ours
		}
		e, err := d.bucket.Get(ctx, key)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read deferred reports: %w", err)
		}
		from := deferredFrom(e)
		d.mu.Lock()
		d.sites[string(site)] = &deferred{from: from, stored: from, revision: e.Revision()}
		d.mu.Unlock()
	}
	return nil
}

// contains reports whether a report is among those that must be read again.
func (d *deferrals) contains(site string, seq uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.sites[site]
	return p != nil && p.stored <= seq
}

// hasUnread reports whether a site has deferred reports that have not been read again.
func (d *deferrals) hasUnread(site string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.sites[site]
	return p != nil && !p.reread
}

// deferredRead is a pending read of a site's reports from a sequence on.
type deferredRead struct {
	deferred *deferred
	from     uint64
}

// dueReads returns the reads that are due by site. idle reports whether a site exists and none
// of its messages waits to be read; room is how many more of its reports can wait. dueReads
// removes the entries whose reports have been processed and returns the revisions of their
// keys.
func (d *deferrals) dueReads(idle func(site string) bool, room func(site string) int) (again map[string]deferredRead, finished map[string]uint64) {
	again, finished = map[string]deferredRead{}, map[string]uint64{}
	d.mu.Lock()
	defer d.mu.Unlock()
	for s, p := range d.sites {
		free := room(s)
		switch {
		case !idle(s):
		case p.reread && p.later > 0:
			p.from, p.later, p.reread = p.later, 0, false
		case p.reread && free == maxWaiting:
			finished[s] = p.revision
			delete(d.sites, s)
		case !p.reread && free > maxWaiting/2:
			again[s] = deferredRead{p, p.from}
			if p.later >= p.from {
				p.later = 0 // this read includes it; an earlier one waits for the next read
			}
		}
	}
	return again, finished
}

// done records the result of a read: it ended, or has to be continued from a sequence on.
func (d *deferrals) done(site string, read deferredRead, next uint64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch p := d.sites[site]; {
	case p != read.deferred: // an earlier report was deferred meanwhile
	case err == nil:
		p.reread = true
	default:
		p.from = next
	}
}

// forget deletes the key of a site whose reports have been processed. If a report was deferred
// meanwhile, the key has another revision and stays.
func (d *deferrals) forget(ctx context.Context, site string, revision uint64) error {
	return d.bucket.Delete(ctx, deferredKey(site), jetstream.LastRevision(revision))
}
