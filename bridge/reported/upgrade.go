package reported

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/table"
)

const (
	// formerConsumer is the consumer of the stream that all sites shared, whose acknowledgement
	// floor was the sequence up to which the API server had accepted the reports.
	formerConsumer = "bridge"
	// formerDeferred is the prefix of the keys with the sequence from which a site's reports had
	// been deferred.
	formerDeferred = "reports."
	// headerStored is the time at which a report that was moved had been stored first.
	headerStored = "Petiole-Stored"
)

// former is the stream that all sites shared in earlier versions.
type former struct{ Config }

// move moves the reports of a site from it to the site's own stream. It copies, in order, the states of objects and what had not been dealt with, unless
// there is a newer report, and notes in the bucket that it did before it removes anything: a
// message that a killed hub brings back in the old stream is then not copied. It deletes the old
// stream when it is empty. A site whose Site does not exist keeps its messages there.
func (f *former) move(ctx context.Context, s *siteState) error {
	old, err := f.Hub.JS.Stream(ctx, streams.SharedReported)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err == nil && !s.floor.known {
		err = f.copyReports(ctx, s, old)
	}
	if err == nil {
		err = old.Purge(ctx, jetstream.WithPurgeSubject(streams.ReportedFilter(s.name)))
	}
	if err == nil {
		err = f.Hub.Bucket.Delete(ctx, formerDeferred+hex.EncodeToString([]byte(s.name)))
	}
	var info *jetstream.StreamInfo
	if err == nil {
		info, err = old.Info(ctx)
	}
	if err == nil && info.State.Msgs == 0 {
		err = f.Hub.JS.DeleteStream(ctx, streams.SharedReported)
		f.Log.Info("all reports are in the sites' own streams, the shared one was deleted", zap.String("stream", streams.SharedReported))
	}
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("move reports of site %s from stream %s: %w", s.name, streams.SharedReported, err)
	}
	return nil
}

// copyReports copies a site's reports, and stores up to where they are dealt with.
func (f *former) copyReports(ctx context.Context, s *siteState, old jetstream.Stream) error {
	dealtWith, err := formerFloor(ctx, f.Hub.Bucket, old, s.name)
	if err != nil {
		return err
	}
	// floor is the end of the messages that are dealt with, as long as nothing came in between.
	var floor uint64
	whole := true
	err = f.Hub.ReadAll(ctx, old, 1, streams.ReportedFilter(s.name), false, func(msg jetstream.Msg) error {
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		past := meta.Sequence.Stream <= dealtWith
		if past && !streams.IsPart(msg.Subject()) {
			if _, m, err := streams.Decode(msg.Subject(), msg.Headers(), msg.Data()); err != nil || !isRetained(m) {
				return nil
			}
		}
		if err := f.Fence.Check(); err != nil {
			return err
		}
		seq, err := copyReport(ctx, f.Hub.JS, msg, meta.Timestamp)
		if whole = whole && past && err == nil && seq == floor+1; whole {
			floor = seq
		}
		return err
	})
	if err != nil {
		return err
	}
	s.floor, err = s.floor.store(ctx, f.Hub.Bucket, f.Fence, s.name, s.created, floor)
	return err
}

// copyReport stores a message on the same subject, unless there is one. It returns its sequence, 0
// if it was not stored.
func copyReport(ctx context.Context, js jetstream.JetStream, msg jetstream.Msg, stored time.Time) (uint64, error) {
	m := nats.NewMsg(msg.Subject())
	for key, values := range msg.Headers() {
		if key == jetstream.MsgIDHeader || !strings.HasPrefix(key, "Nats-") {
			m.Header[key] = values
		}
	}
	m.Header.Set(headerStored, stored.UTC().Format(time.RFC3339Nano))
	m.Data = msg.Data()
	ack, err := js.PublishMsg(ctx, m, jetstream.WithExpectLastSequencePerSubject(0))
	switch {
	case isWrongRevision(err), err == nil && ack.Duplicate:
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("store %s: %w", msg.Subject(), err)
	}
	return ack.Sequence, nil
}

// formerFloor returns the sequence of the old stream up to which a site's reports were dealt with.
func formerFloor(ctx context.Context, bucket jetstream.KeyValue, old jetstream.Stream, site string) (uint64, error) {
	var floor uint64
	cons, err := old.Consumer(ctx, formerConsumer)
	switch {
	case err == nil:
		floor = cons.CachedInfo().AckFloor.Stream
	case !errors.Is(err, jetstream.ErrConsumerNotFound):
		return 0, fmt.Errorf("read consumer %s: %w", formerConsumer, err)
	}
	e, err := bucket.Get(ctx, formerDeferred+hex.EncodeToString([]byte(site)))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return floor, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read what was deferred: %w", err)
	}
	from, err := strconv.ParseUint(string(e.Value()), 10, 64)
	if err != nil || from == 0 {
		return 0, nil // all of them are read again
	}
	return min(floor, from-1), nil
}

// storedAt returns the time at which a report was stored first. A site cannot make it later.
func storedAt(d *table.Message) time.Time {
	if at, err := time.Parse(time.RFC3339Nano, d.Header.Get(headerStored)); err == nil && at.Before(d.Time) {
		return at
	}
	return d.Time
}
