package reported

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/table"
)

const (
	// orphanWait is the delay between the reading of a part and the check of the site's parts;
	// partsInterval is the interval of further checks while the site has parts.
	orphanWait    = 5 * time.Second
	partsInterval = time.Minute
)

// garbage removes what is obsolete.
type garbage struct {
	Config
	reports *reports
}

// collect removes some of a site's obsolete messages, and the parts that belong to no
// report. It reports whether there may be more to remove.
func (g *garbage) collect(ctx context.Context, s *siteState) (more bool, err error) {
	going := s.removable(turnRemovals)
	if err := g.updateLiveSet(ctx, s, going); err != nil {
		s.discard(going...)
		return false, err
	}
	for i, o := range going {
		if err := remove(ctx, s.stream, o.seq); err != nil {
			s.discard(going[i:]...)
			return false, err
		}
	}
	if !s.partsAreDue(g.now()) {
		return len(going) == turnRemovals, nil
	}
	left, full, err := g.removeOrphans(ctx, s)
	switch {
	case full:
		s.checkParts(g.now())
	case left > 0 || err != nil:
		s.checkParts(g.now().Add(partsInterval))
	}
	return full || len(going) == turnRemovals, err
}

// updateLiveSet writes the live set if it does not show yet that messages are removed.
func (g *garbage) updateLiveSet(ctx context.Context, s *siteState, going []obsolete) error {
	if !slices.ContainsFunc(going, func(o obsolete) bool { return o.holdsStates && !s.live.lacks(o.seq) }) {
		return nil
	}
	next := liveSet{last: s.storedFloor()}
	next.kept = append(g.reports.sequences(s.name, next.last), s.retained(next.last, g.Writer.Exists)...)
	slices.Sort(next.kept)
	stored, err := s.live.store(ctx, g.Hub.Bucket, g.Fence, s.name, s.created, next)
	if isConflict(err) {
		// Another bridge has written it, or this one did not get the answer.
		e, known := g.Hub.Bucket.Get(ctx, bucketKey(livePrefix, s.name))
		if known == nil {
			s.live.revision = e.Revision()
		}
	}
	if err != nil {
		return err
	}
	s.live = stored
	return nil
}

// remove removes a message of a stream. It is no error if that was done.
func remove(ctx context.Context, stream jetstream.Stream, seq uint64) error {
	err := stream.DeleteMsg(ctx, seq)
	if err == nil || errors.Is(err, jetstream.ErrMsgNotFound) || errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		return nil
	}
	return fmt.Errorf("remove message %d of %s: %w", seq, stream.CachedInfo().Config.Name, err)
}

// errFull ends a read when there is enough to remove.
var errFull = errors.New("enough was read")

// removeOrphans removes up to turnRemovals parts of a site that belong to no report. It returns
// the number of parts left, and whether there may be more to remove.
//
// Reports arrive in the order in which the site stored them: first the parts of a report, then
// the report, and nothing about another object in between. A part is therefore an orphan if
// something else follows it and its report does not exist or has other parts. The report of
// the last parts may still arrive.
func (g *garbage) removeOrphans(ctx context.Context, s *siteState) (left int, more bool, err error) {
	stream := streams.Reported(s.name)
	newest, err := g.Hub.LastMessage(ctx, stream, streams.ReportedFilter(s.name))
	if err != nil || newest == nil {
		return 0, false, err
	}
	open := "" // the object whose report may still arrive
	if streams.IsPart(newest.Subject) {
		open = streams.ObjectSubject(newest.Subject)
	}
	var object string
	var report *table.Message
	var orphans []uint64
	err = g.Hub.ReadAll(ctx, s.stream, 1, streams.ReportedPartsFilter(s.name), true, func(msg jetstream.Msg) error {
		of, index, err := streams.ParsePart(msg.Subject())
		if err != nil {
			return nil // it is processed, and rejected, as a report
		}
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		if of == open || meta.Sequence.Stream > newest.Seq {
			left++
			return nil
		}
		if of != object {
			if report, err = g.Hub.LastMessage(ctx, stream, of); err != nil {
				return err
			}
			object = of
		}
		if report != nil && streams.NamesPart(report.Header, index, msg.Headers()) {
			left++
			return nil
		}
		if orphans = append(orphans, meta.Sequence.Stream); len(orphans) >= turnRemovals {
			return errFull
		}
		return nil
	})
	if more = errors.Is(err, errFull); err != nil && !more {
		return left, false, err
	}
	for _, seq := range orphans {
		if err := remove(ctx, s.stream, seq); err != nil {
			return left, more, err
		}
	}
	return left, more, nil
}

// hasParts reports whether the hub's leader has all parts of a report.
func hasParts(ctx context.Context, h *hub.Hub, stream string, report *table.Message) (bool, error) {
	n, err := strconv.Atoi(report.Header.Get(streams.HeaderParts))
	if err != nil {
		return false, fmt.Errorf("read header %s of %s: %w", streams.HeaderParts, report.Subject, err)
	}
	for index := range min(n, maxReportParts) {
		part, err := h.LastMessage(ctx, stream, streams.PartSubject(report.Subject, index))
		if err != nil || part == nil || !streams.NamesPart(report.Header, index, part.Header) {
			return false, err
		}
	}
	return true, nil
}
