package nodeapi

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
	"github.com/petiole-io/petiole/streams"
)

// maxUnapplied is the number of messages that may wait to be delivered again; they do not
// hold up the others.
const maxUnapplied = 256

// Applied returns the sequence of SITE_DESIRED up to which every message has been applied,
// 0 before the first. It is safe for concurrent use.
func (a *API) Applied() uint64 {
	seq, _ := a.desired.Position()
	return seq
}

// AppliedSource returns the same position as a sequence of the hub's stream DESIRED, 0 if it
// is unknown. It is safe for concurrent use.
func (a *API) AppliedSource() uint64 {
	_, source := a.desired.Position()
	return source
}

// Quarantined returns the number of messages that could not be read since the start,
// including those that are still in SITE_DESIRED. It is safe for concurrent use.
func (a *API) Quarantined() uint64 { return a.desired.Unreadable() }

// load fills the store from disk with the local and the desired state.
func (a *API) load(ctx context.Context) error {
	reported, err := a.cfg.JS.Stream(ctx, streams.SiteReported)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", streams.SiteReported, err)
	}
	err = streams.ReadLast(ctx, reported, nil, func(msg jetstream.Msg, md *jetstream.MsgMetadata) error {
		return a.restoreLocal(ctx, reported, msg, md)
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", streams.SiteReported, err)
	}
	return a.desired.Load(ctx)
}

// restoreLocal loads one message of SITE_REPORTED. It leaves messages that are unreadable or
// not of this API to the forwarder and the bridge.
func (a *API) restoreLocal(ctx context.Context, s jetstream.Stream, msg jetstream.Msg, md *jetstream.MsgMetadata) error {
	if streams.IsPart(msg.Subject()) {
		return nil
	}
	_, m, err := streams.Load(ctx, s, msg.Subject(), msg.Headers(), msg.Data())
	if errors.Is(err, streams.ErrUndecodable) || errors.Is(err, streams.ErrSuperseded) || errors.Is(err, jetstream.ErrMsgNotFound) {
		a.log.Warn("local state is unreadable: skipped", zap.String("subject", msg.Subject()), zap.Uint64("seq", md.Sequence.Stream), zap.Error(err))
		return nil
	}
	if err != nil {
		return err
	}
	gr := schema.GroupResource{Group: m.Group, Resource: m.Resource}
	switch gr {
	case objects.Pods, objects.Nodes, objects.Events, objects.CSINodes:
	default:
		return nil
	}
	l := &objects.Local{Op: m.Op, UID: m.UID, Node: m.Node, Version: m.Version, Body: m.Object, Seq: md.Sequence.Stream}
	if gr == objects.Pods && m.Op == streams.OpPut {
		d, err := objects.ParseDocument(m.Object)
		if err != nil {
			return err
		}
		l.Body = d["status"]
	}
	k := objects.Key{Namespace: m.Namespace, Name: m.Name}
	if _, err := a.store.SetLocal(gr, k, l); err != nil {
		a.log.Warn("local state is unreadable: skipped", zap.String("subject", msg.Subject()), zap.Uint64("seq", md.Sequence.Stream), zap.Error(err))
		return nil
	}
	if gr == objects.Events {
		a.events.add(k, l.Seq, md.Timestamp)
	}
	return nil
}
