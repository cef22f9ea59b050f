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
func readTombstones(ctx context.Context, js jetstream.JetStream, site string) (*tombstoneIndex, error) {
	s, err := js.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", streams.SiteDesired, err)
	}
	x := &tombstoneIndex{bySubject: map[string]tombstone{}}
	err = desired.Read(ctx, s, site, true, func(msg jetstream.Msg, md *jetstream.MsgMetadata) error {
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

// loadTombstones reads the index from the stream on first use.
func (r *Replicator) loadTombstones(ctx context.Context) (err error) {
	if r.tombstones != nil {
		return nil
	}
	r.cfg.Desired.Lock()
	defer r.cfg.Desired.Unlock()
	r.tombstones, err = readTombstones(ctx, r.cfg.JS, r.cfg.Site)
	if errors.Is(err, desired.ErrUnreadable) {
		r.cfg.Desired.ReportUnreadable()
	}
	return err
}

// storedMessage returns the message to store for a delivery, without the headers that were meant
// for the hub's stream and with its position there. If a tombstone supersedes the delivery, the
// tombstone is stored again at that position.
func (r *Replicator) storedMessage(ctx context.Context, d delivery, identity string, o *overtaker) (*nats.Msg, error) {
	msg := nats.NewMsg(d.Subject)
	msg.Header, msg.Data = desired.WithoutServerHeaders(d.Header), d.Data
	msg = o.delivered(d, msg)
	if r.tombstones.supersedes(msg) {
		s, err := r.cfg.JS.Stream(ctx, streams.SiteDesired)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", streams.SiteDesired, err)
		}
		last, err := s.GetLastMsgForSubject(ctx, d.Subject)
		switch {
		case err == nil && last.Header.Get(streams.HeaderOp) == string(streams.OpDelete):
			r.cfg.Log.Warn("old version of a deleted object received; its tombstone is kept",
				zap.String("subject", d.Subject), zap.String("version", msg.Header.Get(streams.HeaderVersion)))
			msg.Header, msg.Data = desired.WithoutServerHeaders(last.Header), nil
		case err != nil && !errors.Is(err, jetstream.ErrMsgNotFound): // old tombstones are removed
			return nil, fmt.Errorf("read the tombstone of %s: %w", d.Subject, err)
		}
	}
	msg.Header.Set(streams.HeaderSource, streams.HubPosition{Seq: d.stream, Identity: identity}.String())
	return msg, nil
}
