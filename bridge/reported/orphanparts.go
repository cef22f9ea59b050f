package reported

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/streams"
)

const (
	// orphanWait is the delay between the storing of a part, or the removal of a report, and
	// the check of the site's parts; partsInterval is the interval of further checks while the
	// site has parts.
	orphanWait    = 5 * time.Second
	partsInterval = time.Minute
)

// schedulePartsCheck schedules a check of a site's parts within d. The caller holds the lock.
func (c *consumer) schedulePartsCheck(site string, d time.Duration) {
	at := c.now().Add(d)
	if due, ok := c.parts[site]; !ok || at.Before(due) {
		c.parts[site] = at
	}
}

// collectOrphanParts removes parts in REPORTED that belong to no report, until ctx ends.
func (c *consumer) collectOrphanParts(ctx context.Context) {
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		for _, site := range c.dueParts() {
			left, more, err := c.removeOrphans(ctx, site)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				c.Log.Debug("cannot remove orphan parts, retrying later", zap.String("site", site), zap.Error(err))
			}
			c.mu.Lock()
			switch {
			case more:
				c.schedulePartsCheck(site, 0)
			case left > 0 || err != nil:
				c.schedulePartsCheck(site, partsInterval)
			}
			c.mu.Unlock()
		}
	}, gcInterval)
}

// dueParts returns the sites whose check is due and removes them from the schedule.
func (c *consumer) dueParts() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var due []string
	for site, at := range c.parts {
		if !at.After(c.now()) {
			due = append(due, site)
			delete(c.parts, site)
		}
	}
	return due
}

// removeOrphans removes up to gcBatch parts of a site that belong to no report. It returns the
// number of parts left, and whether there may be more to remove.
//
// Reports arrive in the order in which the site stored them: first the parts of a report, then
// the report, and nothing about another object in between. A part is therefore an orphan if
// something else follows it and its report does not exist or has other parts. The report of
// the last parts may still arrive.
func (c *consumer) removeOrphans(ctx context.Context, site string) (left int, more bool, err error) {
	newest, err := c.Hub.LastMessage(ctx, streams.Reported, streams.ReportedFilter(site))
	if err != nil || newest == nil {
		return 0, false, err
	}
	open := "" // the object whose report may still arrive
	if streams.IsPart(newest.Subject) {
		open = streams.ObjectSubject(newest.Subject)
	}
	var object string
	var report *hub.Message
	var orphans []uint64
	err = c.Hub.ReadAll(ctx, c.Hub.Reported, 1, streams.ReportedPartsFilter(site), true, func(msg jetstream.Msg) error {
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
			if report, err = c.Hub.LastMessage(ctx, streams.Reported, of); err != nil {
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
		if err := c.Hub.Reported.DeleteMsg(ctx, seq); err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
			return left, more, fmt.Errorf("remove part %d of %s: %w", seq, streams.Reported, err)
		}
	}
	return left, more, nil
}

// hasParts reports whether the hub's leader has all parts of a report.
func hasParts(ctx context.Context, h *hub.Hub, report *hub.Message) (bool, error) {
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
