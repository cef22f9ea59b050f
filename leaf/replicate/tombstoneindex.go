package replicate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/leaf/desired"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/order"
)

// tombstoneIndex maps each subject of SITE_DESIRED to its tombstone.
//
// A hub that was killed may hold a superseded message again whose tombstone it had removed
// (docs/decisions/0013), and deliver it before the bridge has noticed. The node API rejects it
// because of the tombstone. But a stream keeps only the last message of a subject, so a node API
// that starts later would find nothing but the old version. The replicator therefore stores the
// tombstone again instead of the old version.
//
// The index holds the tombstones of the last desired.TombstoneRetention and up to as many older ones.
type tombstoneIndex struct {
	bySubject map[string]tombstone
	// pruned is the number of entries after old ones were last removed.
	pruned int
}

type tombstone struct {
	stamp order.Stamp
	since time.Time
}

// readTombstones reads the tombstones of SITE_DESIRED.
func readTombstones(ctx context.Context, s jetstream.Stream, site string) (*tombstoneIndex, error) {
	x := &tombstoneIndex{bySubject: map[string]tombstone{}}
	err := desired.Read(ctx, s, site, true, func(msg jetstream.Msg, md *jetstream.MsgMetadata) error {
		x.record(msg.Subject(), msg.Headers(), md.Timestamp)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the tombstones of %s: %w", streams.SiteDesired, err)
	}
	return x, nil
}

// record updates the index with a message that was stored at the given time.
func (x *tombstoneIndex) record(subject string, h nats.Header, at time.Time) {
	if h.Get(streams.HeaderOp) != string(streams.OpDelete) {
		delete(x.bySubject, subject)
		return
	}
	x.bySubject[subject] = tombstone{stamp: streams.StampOf(h), since: at}
	if len(x.bySubject) > 2*x.pruned+100 {
		maps.DeleteFunc(x.bySubject, func(_ string, dead tombstone) bool { return at.Sub(dead.since) > desired.TombstoneRetention })
		x.pruned = len(x.bySubject)
	}
}

// supersedes reports whether a tombstone is newer than the object in m: it has the same epoch
// and a higher version. An equal version means that the object left the site's scope for a while
// and is back.
func (x *tombstoneIndex) supersedes(m *nats.Msg) bool {
	dead, ok := x.bySubject[m.Subject]
	return ok && m.Header.Get(streams.HeaderOp) == string(streams.OpPut) && dead.stamp.NewerThan(streams.StampOf(m.Header))
}

// loadTombstones opens the stream, and reads the index from it, on first use.
func (r *Replicator) loadTombstones(ctx context.Context) (err error) {
	if r.tombstones != nil {
		return nil
	}
	if r.stored, err = r.cfg.JS.Stream(ctx, streams.SiteDesired); err != nil {
		return fmt.Errorf("open %s: %w", streams.SiteDesired, err)
	}
	r.cfg.Desired.Lock()
	defer r.cfg.Desired.Unlock()
	r.tombstones, err = readTombstones(ctx, r.stored, r.cfg.Site)
	if errors.Is(err, desired.ErrUnreadable) {
		r.cfg.Desired.ReportUnreadable()
	}
	return err
}

// storedMessage returns the message to store for a delivery, without the headers that were meant
// for the hub's stream and with its position there. If what is stored supersedes the delivery, it is
// stored again at that position.
func (r *Replicator) storedMessage(ctx context.Context, d delivery, identity string, o *overtaker) (*nats.Msg, error) {
	msg := nats.NewMsg(d.Subject)
	msg.Header, msg.Data = desired.WithoutServerHeaders(d.Header), d.Data
	msg = o.delivered(d, msg)
	newer, err := r.superseding(ctx, msg)
	if err != nil {
		return nil, err
	}
	if newer != nil {
		r.cfg.Log.Warn("old version of an object received; what is stored is kept",
			zap.String("subject", d.Subject), zap.String("op", msg.Header.Get(streams.HeaderOp)), zap.String("version", msg.Header.Get(streams.HeaderVersion)))
		msg.Header, msg.Data = desired.WithoutServerHeaders(newer.Header), newer.Data
	}
	msg.Header.Set(streams.HeaderSource, streams.HubPosition{Seq: d.stream, Identity: identity}.String())
	return msg, nil
}

// superseding returns the stored message that supersedes m, or nil: a tombstone that is newer than the
// object in m, or an object that is newer than the tombstone in m.
//
// The latter is published by a bridge that found a former version of a Secret at a hub that was killed
// after the newest one was erased. The node API rejects that tombstone, so the stream must not have it
// either: the comparison of inventories then finds the object, and the bridge deletes it.
func (r *Replicator) superseding(ctx context.Context, m *nats.Msg) (*jetstream.RawStreamMsg, error) {
	op := m.Header.Get(streams.HeaderOp)
	if op != string(streams.OpDelete) && !r.tombstones.supersedes(m) {
		return nil, nil
	}
	last, err := r.stored.GetLastMsgForSubject(ctx, m.Subject)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound): // also old tombstones are removed
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read what is stored on %s: %w", m.Subject, err)
	case last.Header.Get(streams.HeaderOp) == op || !streams.StampOf(last.Header).NewerThan(streams.StampOf(m.Header)):
		return nil, nil
	}
	return last, nil
}
