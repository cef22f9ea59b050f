package leaf

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/petiole-io/petiole/streams"
)

// buried are the tombstones of SITE_DESIRED, by subject.
//
// A hub that was killed may have a superseded message again whose tombstone it had removed
// (docs/decisions/0013), and deliver it before the bridge has seen that. The node API
// refuses it because of the tombstone; but a stream keeps the last message of a subject, and
// a node API that starts later would read nothing else. So the tombstone is what is stored.
//
// It knows those of the last tombstoneLife, and up to as many older ones.
type tombstoneIndex struct {
	bySubject map[string]tombstone
	// pruned is how many there were when old ones were forgotten the last time.
	pruned int
}

type tombstone struct {
	epoch, version string
	since          time.Time
}

// readBuried reads the tombstones of a stream.
func readTombstones(ctx context.Context, js jetstream.JetStream, site string) (*tombstoneIndex, error) {
	s, err := js.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", streams.SiteDesired, err)
	}
	b := &tombstoneIndex{bySubject: map[string]tombstone{}}
	err = readLast(ctx, s, streams.DesiredFilter(site), true, func(msg jetstream.Msg, md *jetstream.MsgMetadata) error {
		b.record(msg.Subject(), msg.Headers(), md.Timestamp)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the tombstones of %s: %w", streams.SiteDesired, err)
	}
	return b, nil
}

// stored takes note of a message that is on disk since at.
func (b *tombstoneIndex) record(subject string, h nats.Header, at time.Time) {
	if h.Get(streams.HeaderOp) != string(streams.OpDelete) {
		delete(b.bySubject, subject)
		return
	}
	b.bySubject[subject] = tombstone{epoch: h.Get(streams.HeaderEpoch), version: h.Get(streams.HeaderVersion), since: at}
	if len(b.bySubject) > 2*b.pruned+100 {
		maps.DeleteFunc(b.bySubject, func(_ string, g tombstone) bool { return at.Sub(g.since) > tombstoneRetention })
		b.pruned = len(b.bySubject)
	}
}

// outrank says whether a tombstone ends the object that a message puts: it is of the same
// epoch, and of a higher version. An equal version is an object that was not wanted at the
// site for a time.
func (b *tombstoneIndex) supersedes(m *nats.Msg) bool {
	g, ok := b.bySubject[m.Subject]
	if !ok || m.Header.Get(streams.HeaderOp) != string(streams.OpPut) || m.Header.Get(streams.HeaderEpoch) != g.epoch {
		return false
	}
	c, err := resourceversion.CompareResourceVersion(g.version, m.Header.Get(streams.HeaderVersion))
	return err == nil && c > 0
}

// exhume reads the tombstones that are stored, once.
func (r *replicator) loadTombstones(ctx context.Context) (err error) {
	if r.tombstones != nil {
		return nil
	}
	r.storing.Lock()
	defer r.storing.Unlock()
	r.tombstones, err = readTombstones(ctx, r.js, r.site)
	if errors.Is(err, errUnreadable) {
		r.onUnreadable()
	}
	return err
}

// message is what is stored for a delivery: without what instructed the hub's stream, with
// its place there, also when the tombstone that outranks it is stored instead.
func (r *replicator) storedMessage(ctx context.Context, d delivery, identity string) (*nats.Msg, error) {
	msg := nats.NewMsg(d.Subject)
	msg.Header, msg.Data = withoutServerHeaders(d.Header), d.Data
	if r.tombstones.supersedes(msg) {
		s, err := r.js.Stream(ctx, streams.SiteDesired)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", streams.SiteDesired, err)
		}
		last, err := s.GetLastMsgForSubject(ctx, d.Subject)
		switch {
		case err == nil && last.Header.Get(streams.HeaderOp) == string(streams.OpDelete):
			r.log.Warn("the hub delivers an object that its tombstone outranks; the tombstone stays",
				zap.String("subject", d.Subject), zap.String("version", msg.Header.Get(streams.HeaderVersion)))
			msg.Header, msg.Data = withoutServerHeaders(last.Header), nil
		case err != nil && !errors.Is(err, jetstream.ErrMsgNotFound): // old tombstones are removed
			return nil, fmt.Errorf("read the tombstone of %s: %w", d.Subject, err)
		}
	}
	msg.Header.Set(streams.HeaderSource, streams.Source{Seq: d.stream, Identity: identity}.String())
	return msg, nil
}

// ownHeaders are those by which no nats-server was instructed, or says where the message
// lies.
func withoutServerHeaders(h nats.Header) nats.Header {
	out := nats.Header{}
	for k, v := range h {
		if !strings.HasPrefix(k, "Nats-") {
			out[k] = v
		}
	}
	return out
}
