package reported

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/table"
)

const (
	// orphanWait is the delay between the storing of a part, or the removal of a report, and
	// the check of the site's parts; partsInterval is the interval of further checks while the
	// site has parts.
	orphanWait    = 5 * time.Second
	partsInterval = time.Minute
)

// orphanParts removes parts that belong to no report. It is safe for concurrent use.
type orphanParts struct {
	hub *hub.Hub
	log *zap.Logger
	now func() time.Time

	mu sync.Mutex
	// due maps each site with parts in REPORTED to the time of its next check.
	due map[string]time.Time
}

func newOrphanParts(h *hub.Hub, log *zap.Logger, now func() time.Time) *orphanParts {
	return &orphanParts{hub: h, log: log, now: now, due: map[string]time.Time{}}
}

// partSeen schedules a check of a site that has stored a part.
func (o *orphanParts) partSeen(site string) { o.schedule(site, orphanWait) }

// reportRemoved schedules a check of a site if it has parts: the removed report may have had
// some.
func (o *orphanParts) reportRemoved(site string) {
	o.mu.Lock()
	_, has := o.due[site]
	o.mu.Unlock()
	if has {
		o.schedule(site, orphanWait)
	}
}

// schedule schedules a check of a site's parts within d.
func (o *orphanParts) schedule(site string, d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	at := o.now().Add(d)
	if due, ok := o.due[site]; !ok || at.Before(due) {
		o.due[site] = at
	}
}

// collect removes parts in REPORTED that belong to no report, until ctx ends.
func (o *orphanParts) collect(ctx context.Context) {
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		for _, site := range o.dueSites() {
			left, more, err := o.remove(ctx, site)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				o.log.Debug("cannot remove orphan parts, retrying later", zap.String("site", site), zap.Error(err))
			}
			switch {
			case more:
				o.schedule(site, 0)
			case left > 0 || err != nil:
				o.schedule(site, partsInterval)
			}
		}
	}, gcInterval)
}

// dueSites returns the sites whose check is due and removes them from the schedule.
func (o *orphanParts) dueSites() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var due []string
	for site, at := range o.due {
		if !at.After(o.now()) {
			due = append(due, site)
			delete(o.due, site)
		}
	}
	return due
}

// remove removes up to gcBatch parts of a site that belong to no report. It returns the
// number of parts left, and whether there may be more to remove.
//
// Reports arrive in the order in which the site stored them: first the parts of a report, then
// the report, and nothing about another object in between. A part is therefore an orphan if
// something else follows it and its report does not exist or has other parts. The report of
// the last parts may still arrive.
func (o *orphanParts) remove(ctx context.Context, site string) (left int, more bool, err error) {
	newest, err := o.hub.LastMessage(ctx, streams.Reported, streams.ReportedFilter(site))
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
	err = o.hub.ReadAll(ctx, o.hub.Reported, 1, streams.ReportedPartsFilter(site), true, func(msg jetstream.Msg) error {
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
			if report, err = o.hub.LastMessage(ctx, streams.Reported, of); err != nil {
				return err
			}
			object = of
		}
		if report != nil && streams.NamesPart(report.Header, index, msg.Headers()) {
			left++
			return nil
		}
		if orphans = append(orphans, meta.Sequence.Stream); len(orphans) >= gcBatch {
			return errFull
		}
		return nil
	})
	if more = errors.Is(err, errFull); err != nil && !more {
		return left, false, err
	}
	for _, seq := range orphans {
		if err := o.hub.Reported.DeleteMsg(ctx, seq); err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
			return left, more, fmt.Errorf("remove part %d of %s: %w", seq, streams.Reported, err)
		}
	}
	return left, more, nil
}

// hasParts reports whether the hub's leader has all parts of a report.
func hasParts(ctx context.Context, h *hub.Hub, report *table.Message) (bool, error) {
	n, err := strconv.Atoi(report.Header.Get(streams.HeaderParts))
	if err != nil {
		return false, fmt.Errorf("read header %s of %s: %w", streams.HeaderParts, report.Subject, err)
	}
	for index := range min(n, maxReportParts) {
		part, err := h.LastMessage(ctx, streams.Reported, streams.PartSubject(report.Subject, index))
		if err != nil || part == nil {
			return false, err
		}
	}
	return true, nil
}
