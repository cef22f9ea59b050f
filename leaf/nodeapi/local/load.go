package local

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

// Load fills the objects' store with the local state that is on disk. It may be called again after
// an error.
func (s *Store) Load(ctx context.Context) error {
	stream, err := s.JS.Stream(ctx, streams.SiteReported)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", streams.SiteReported, err)
	}
	err = streams.ReadLast(ctx, stream, nil, func(msg jetstream.Msg, md *jetstream.MsgMetadata) error {
		return s.restore(ctx, stream, msg, md)
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", streams.SiteReported, err)
	}
	return nil
}

// restore loads one message of SITE_REPORTED. It leaves messages that are unreadable or
// not of this API to the forwarder and the bridge.
func (s *Store) restore(ctx context.Context, stream jetstream.Stream, msg jetstream.Msg, md *jetstream.MsgMetadata) error {
	if streams.IsPart(msg.Subject()) {
		return nil
	}
	skip := func(err error) error {
		s.Log.Warn("local state is unreadable: skipped", zap.String("subject", msg.Subject()), zap.Uint64("seq", md.Sequence.Stream), zap.Error(err))
		return nil
	}
	_, m, err := streams.Load(ctx, stream, msg.Subject(), msg.Headers(), msg.Data())
	if errors.Is(err, streams.ErrUndecodable) || errors.Is(err, streams.ErrSuperseded) || errors.Is(err, jetstream.ErrMsgNotFound) {
		return skip(err)
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
			return skip(err)
		}
		l.Body = d["status"]
	}
	k := objects.Key{Namespace: m.Namespace, Name: m.Name}
	if _, err := s.Objects.SetLocal(gr, k, l); err != nil {
		return skip(err)
	}
	if gr == objects.Events {
		s.events.add(k, l.Seq, md.Timestamp)
	}
	return nil
}
