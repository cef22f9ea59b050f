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
const putOffPrefix = "reports."

// putOff says that reports of a site were acknowledged, so that they do not take the
// place of others', but not dealt with: too many of them waited, their parts were missing,
// there was no Site, or the API server did not take them for long. They stay in REPORTED,
// each as the newest about its object, and those that are not in memory are read again
// when there is room. The bridge's bucket remembers it.
type putOff struct {
	from uint64
	// since is the first that was put off after the site was read again, 0 for none.
	since uint64
	// read says that all of them have been read again; they are remembered until they have
	// been dealt with.
	read bool
	// kept is what the bucket's key says, revision the key's.
	kept, revision uint64
}

// errFull ends a read when no more reports of the site may wait.
var errFull = errors.New("too many reports wait")

// stray notes a report of a site without a Site object.
func (i *intake) stray(site string) {
	i.count.strays.Add(1)
	i.mu.Lock()
	first := !i.strays[site]
	i.strays[site] = true
	i.mu.Unlock()
	if first {
		i.log.Warn("reports of a site without a Site object are not written back", zap.String("site", site))
	}
}

// leave puts a report off and acknowledges it.
func (i *intake) leave(ctx context.Context, site string, a *arrival) {
	err := i.put(ctx, site, a.seq, true)
	switch {
	case err == nil:
		i.ack(a.from)
		return
	case ctx.Err() == nil:
		i.log.Debug("report not put off, it comes again", zap.String("site", site), zap.Error(err))
	}
	if a.from != nil {
		i.later(a.from)
	}
}

// put remembers that the reports of a site from a sequence on are to be read again: with
// again by this bridge, otherwise by the next one only.
func (i *intake) put(ctx context.Context, site string, seq uint64, again bool) error {
	i.putting.Lock()
	defer i.putting.Unlock()
	i.mu.Lock()
	p := i.putOff[site]
	if p != nil && p.kept <= seq {
		if again {
			p.add(seq)
		}
		i.mu.Unlock()
		return nil
	}
	i.mu.Unlock()
	kept, revision, err := i.keep(ctx, putOffKey(site), seq)
	if err != nil {
		return fmt.Errorf("remember reports of site %s: %w", site, err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	was := i.putOff[site]
	p = &putOff{from: kept, kept: kept, revision: revision, read: !again && kept == seq && (was == nil || was.read)}
	if was != nil && was.read {
		p.since = was.since
	}
	i.putOff[site] = p
	return nil
}

// add notes that a report is to be read again.
func (p *putOff) add(seq uint64) {
	p.since = least(p.since, seq)
	if !p.read {
		p.from = min(p.from, seq)
	}
}

// keep has a key say the smaller of seq and what it says, which may be another bridge's,
// in a revision of its own.
func (i *intake) keep(ctx context.Context, key string, seq uint64) (kept, revision uint64, err error) {
	if err := i.publish.fence.check(); err != nil {
		return 0, 0, err
	}
	e, err := i.hub.record.Get(ctx, key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		revision, err = i.hub.record.Create(ctx, key, []byte(strconv.FormatUint(seq, 10)))
		return seq, revision, err
	case err != nil:
		return 0, 0, err
	}
	kept = min(seq, keptBy(e))
	revision, err = i.hub.record.Update(ctx, key, []byte(strconv.FormatUint(kept, 10)), e.Revision())
	return kept, revision, err
}

// keptBy is what a key says; one that is not understood says that all reports are to be
// read again.
func keptBy(e jetstream.KeyValueEntry) uint64 {
	from, err := strconv.ParseUint(string(e.Value()), 10, 64)
	if err != nil {
		return 1
	}
	return from
}

// least is the smaller of two sequences, of which 0 is none.
func least(a, b uint64) uint64 {
	if a == 0 {
		return b
	}
	return min(a, b)
}

func putOffKey(site string) string { return putOffPrefix + hex.EncodeToString([]byte(site)) }

// recoverPutOff reads what an earlier bridge put off.
func (i *intake) recoverPutOff(ctx context.Context) error {
	keys, err := i.hub.record.ListKeysFiltered(ctx, putOffPrefix+"*")
	if err != nil {
		return fmt.Errorf("read what was put off: %w", err)
	}
	for key := range keys.Keys() {
		site, err := hex.DecodeString(strings.TrimPrefix(key, putOffPrefix))
		if err != nil {
			continue // nobody's
		}
		e, err := i.hub.record.Get(ctx, key)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read what was put off: %w", err)
		}
		from := keptBy(e)
		i.mu.Lock()
		i.putOff[string(site)] = &putOff{from: from, kept: from, revision: e.Revision()}
		i.mu.Unlock()
	}
	return nil
}

// isPutOff says whether a report is one of those that are to be read again.
func (i *intake) isPutOff(site string, seq uint64) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	p := i.putOff[site]
	return p != nil && p.kept <= seq
}

// moreToRead reports whether reports of a site were put off that have not been read again
// since.
func (i *intake) moreToRead(site string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	p := i.putOff[site]
	return p != nil && !p.read
}

// wake has them read without waiting for the next round. It does not block.
func (i *intake) wake() {
	select {
	case i.woken <- struct{}{}:
	default:
	}
}

// resume reads the reports that were put off, of sites that have a Site and room, and
// forgets those that have been dealt with.
func (i *intake) resume(ctx context.Context) {
	again, over := i.due()
	for s, begun := range again {
		next, err := i.readAgain(ctx, s, begun.from)
		i.mu.Lock()
		switch p := i.putOff[s]; {
		case p != begun.putOff: // an earlier one was put off meanwhile
		case err == nil:
			p.read = true
		default:
			p.from = next
		}
		i.mu.Unlock()
		if err != nil && ctx.Err() == nil && !errors.Is(err, errFull) {
			i.log.Warn("reports of a site not read, trying again", zap.String("site", s), zap.Error(err))
		}
	}
	for s, revision := range over {
		// One that was put off meanwhile has another revision, and stays.
		if err := i.hub.record.Delete(ctx, putOffKey(s), jetstream.LastRevision(revision)); err != nil {
			i.log.Debug("reports of a site remembered for longer than needed", zap.String("site", s), zap.Error(err))
		}
	}
}

// rereading is what is to be read again, from a sequence on.
type rereading struct {
	putOff *putOff
	from   uint64
}

// due returns from which sequence which sites are to be read again, and takes out those
// that have been dealt with, with the revisions of their keys.
func (i *intake) due() (again map[string]rereading, over map[string]uint64) {
	again, over = map[string]rereading{}, map[string]uint64{}
	i.mu.Lock()
	defer i.mu.Unlock()
	for s, p := range i.putOff {
		room, idle := i.reports.room(s), i.inbox.len(s) == 0
		switch {
		case !i.publish.siteExists(s) || !idle:
		case p.read && p.since > 0:
			p.from, p.since, p.read = p.since, 0, false
		case p.read && room == maxWaiting:
			over[s] = p.revision
			delete(i.putOff, s)
		case !p.read && room > maxWaiting/2:
			again[s] = rereading{p, p.from}
			if p.since >= p.from {
				p.since = 0 // this read comes to it; an earlier one waits for the next
			}
			delete(i.strays, s)
		}
	}
	return again, over
}

// readAgain puts the reports of a site from a sequence on, which were acknowledged before,
// into its inbox. With an error it returns from where to go on.
func (i *intake) readAgain(ctx context.Context, site string, from uint64) (next uint64, err error) {
	next = from
	n, over := 0, i.spentOf(site)
	err = readAll(ctx, i.hub.js, i.hub.reported, from, streams.ReportedFilter(site), false, func(msg jetstream.Msg) error {
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		if _, part := i.note(msg, meta); part {
			return nil
		}
		if _, ref, err := streams.ParseReported(msg.Subject()); err == nil && i.reports.knows(reportKey{site, ref}, meta.Sequence.Stream) {
			return nil
		}
		if over[meta.Sequence.Stream] {
			return nil // it was dealt with, and is about to be removed
		}
		next = meta.Sequence.Stream
		if n >= i.reports.room(site) || i.spentRoom(site) <= n {
			return errFull
		}
		n++
		i.inbox.put(site, arrivalOf(msg, meta))
		i.sites.Add(site)
		return nil
	})
	return next, err
}
