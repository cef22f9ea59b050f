package nodeapi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
	"github.com/petiole-io/petiole/streams"
)

const (
	// applyAhead is the number of messages that are buffered in memory.
	applyAhead = 16
	// A missing part may still arrive; after partAttempts deliveries its object is
	// quarantined.
	partRetryDelay = time.Second
	partAttempts   = 30
	retryDelay     = time.Second
)

// followOperation names followDesired in the log.
const followOperation = "apply desired state"

// progress is the position up to which SITE_DESIRED has been applied.
type progress struct {
	mu sync.Mutex
	// applied is the position in SITE_DESIRED, source the same position in DESIRED.
	applied, source uint64
	// waiting holds the sequences of messages that are delivered again, with their positions
	// in DESIRED.
	waiting map[uint64]uint64
	// unreadable holds the sequences of messages that could not be read.
	unreadable map[uint64]struct{}
}

func newProgress() *progress {
	return &progress{waiting: map[uint64]uint64{}, unreadable: map[uint64]struct{}{}}
}

func (p *progress) markApplied(seq, source uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, seq)
	if seq >= p.applied {
		p.applied, p.source = seq, source
	}
}

func (p *progress) markWaiting(seq, source uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting[seq] = source
}

func (p *progress) markUnreadable(seq uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unreadable[seq] = struct{}{}
}

// Applied returns the sequence of SITE_DESIRED up to which every message has been applied,
// 0 before the first. It is safe for concurrent use.
func (a *API) Applied() uint64 {
	a.progress.mu.Lock()
	defer a.progress.mu.Unlock()
	n := a.progress.applied
	for seq := range a.progress.waiting {
		n = min(n, seq-1)
	}
	return n
}

// AppliedSource returns the same position as a sequence of the hub's stream DESIRED, 0 if it
// is unknown. It is safe for concurrent use.
func (a *API) AppliedSource() uint64 {
	a.progress.mu.Lock()
	defer a.progress.mu.Unlock()
	n := a.progress.source
	for _, source := range a.progress.waiting {
		n = min(n, max(source, 1)-1)
	}
	return n
}

// sourceOf returns the sequence in DESIRED of a message of SITE_DESIRED, 0 if it has none.
func sourceOf(msg jetstream.Msg) uint64 {
	source, err := streams.ParseSource(msg.Headers().Get(streams.HeaderSource))
	if err != nil {
		return 0
	}
	return source.Seq
}

// Quarantined returns the number of messages that could not be read since the start,
// including those that are still in SITE_DESIRED. It is safe for concurrent use.
func (a *API) Quarantined() uint64 {
	a.progress.mu.Lock()
	defer a.progress.mu.Unlock()
	return uint64(len(a.progress.unreadable))
}

// load fills the store from disk with the local and the desired state.
func (a *API) load(ctx context.Context) error {
	desired, err := a.cfg.JS.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", streams.SiteDesired, err)
	}
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
	err = streams.ReadLast(ctx, desired, nil, func(msg jetstream.Msg, md *jetstream.MsgMetadata) error {
		err := a.process(ctx, desired, msg)
		switch {
		case errors.Is(err, streams.ErrUndecodable):
			// The consumer quarantines it, unless it has done so before.
			a.progress.markUnreadable(md.Sequence.Stream)
		case errors.Is(err, jetstream.ErrMsgNotFound):
			a.log.Warn("desired object has a missing part: skipped", zap.String("subject", msg.Subject()), zap.Uint64("seq", md.Sequence.Stream), zap.Error(err))
		case err != nil:
			return err
		}
		a.progress.markApplied(md.Sequence.Stream, sourceOf(msg))
		return nil
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", streams.SiteDesired, err)
	}
	return nil
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

// process applies one message of SITE_DESIRED.
func (a *API) process(ctx context.Context, s jetstream.Stream, msg jetstream.Msg) error {
	if streams.IsPart(msg.Subject()) {
		return nil
	}
	_, m, err := streams.Load(ctx, s, msg.Subject(), msg.Headers(), msg.Data())
	if errors.Is(err, streams.ErrSuperseded) {
		// The newer version has its own message.
		return nil
	}
	if err != nil {
		return err
	}
	return a.store.Apply(m)
}

// followDesired applies new messages until ctx ends. It starts again after an error, such as
// a new stream or consumer.
func (a *API) followDesired(ctx context.Context) error {
	for {
		err := a.consume(ctx)
		if ctx.Err() != nil {
			return nil
		}
		a.outcomes.Report(followOperation, err, zap.String("stream", streams.SiteDesired))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryDelay):
		}
	}
}

func (a *API) consume(ctx context.Context) error {
	err := streams.EnsureConsumer(ctx, a.cfg.JS, streams.SiteDesired,
		streams.LocalConsumer(streams.ApplyConsumer, "what the node API has applied", 256))
	if err != nil {
		return err
	}
	s, err := a.cfg.JS.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", streams.SiteDesired, err)
	}
	c, err := s.Consumer(ctx, streams.ApplyConsumer)
	if err != nil {
		return fmt.Errorf("open consumer %s: %w", streams.ApplyConsumer, err)
	}
	// Messages that an earlier process received and did not acknowledge are delivered again
	// at once, and not only after their AckWait.
	if _, err := s.ResetConsumer(ctx, streams.ApplyConsumer); err != nil {
		return fmt.Errorf("reset consumer %s: %w", streams.ApplyConsumer, err)
	}
	msgs, err := c.Messages(jetstream.PullMaxMessages(applyAhead))
	if err != nil {
		return fmt.Errorf("read consumer %s: %w", streams.ApplyConsumer, err)
	}
	defer msgs.Stop()
	a.outcomes.Report(followOperation, nil, zap.String("stream", streams.SiteDesired))
	for {
		msg, err := msgs.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("read consumer %s: %w", streams.ApplyConsumer, err)
		}
		if err := a.handle(ctx, s, msg); err != nil {
			return err
		}
	}
}

// handle applies one message and then acknowledges it. A message that cannot be applied now
// is delivered again and does not block the others.
func (a *API) handle(ctx context.Context, s jetstream.Stream, msg jetstream.Msg) error {
	md, err := msg.Metadata()
	if err != nil {
		return err
	}
	seq := md.Sequence.Stream
	err = a.process(ctx, s, msg)
	if errors.Is(err, jetstream.ErrMsgNotFound) && md.NumDelivered >= partAttempts {
		err = fmt.Errorf("%w: %w", streams.ErrUndecodable, err)
	}
	if errors.Is(err, streams.ErrUndecodable) {
		err = a.quarantine(ctx, msg, seq, err)
	}
	if err != nil {
		a.progress.markWaiting(seq, sourceOf(msg))
		if ctx.Err() != nil {
			return err
		}
		a.log.Warn("desired object not applied: retrying", zap.String("subject", msg.Subject()), zap.Uint64("seq", seq), zap.Error(err))
		if err := msg.NakWithDelay(partRetryDelay); err != nil {
			return fmt.Errorf("negatively acknowledge %s: %w", msg.Subject(), err)
		}
		return nil
	}
	a.progress.markApplied(seq, sourceOf(msg))
	if err := msg.Ack(); err != nil {
		return fmt.Errorf("acknowledge %s: %w", msg.Subject(), err)
	}
	return nil
}

// quarantine stores an unreadable message in SITE_QUARANTINE.
func (a *API) quarantine(ctx context.Context, msg jetstream.Msg, seq uint64, reason error) error {
	if err := streams.QuarantineMessage(ctx, a.cfg.JS, streams.SiteQuarantine, msg.Subject(), msg.Headers(), msg.Data(), reason); err != nil {
		return err
	}
	a.progress.markUnreadable(seq)
	a.log.Warn("desired object quarantined: it cannot be read", zap.String("subject", msg.Subject()), zap.Uint64("seq", seq), zap.Error(reason))
	return nil
}
