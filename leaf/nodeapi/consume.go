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

	"github.com/petiole-io/petiole/streams"
)

const (
	// applyAhead bounds the messages that wait in memory for being taken over.
	applyAhead = 16
	// A part that is missing may still arrive, but not for ever.
	partRetry    = time.Second
	partAttempts = 30
	followRetry  = time.Second
)

// progress is how far SITE_DESIRED has been taken over.
type progress struct {
	mu sync.Mutex
	// applied is the place in SITE_DESIRED, source the same place in DESIRED.
	applied, source uint64
	// waiting are the messages whose parts have to be read again, with their places in
	// DESIRED.
	waiting map[uint64]uint64
	// unreadable are the messages that were counted as such.
	unreadable map[uint64]struct{}
}

func newProgress() *progress {
	return &progress{waiting: map[uint64]uint64{}, unreadable: map[uint64]struct{}{}}
}

func (p *progress) done(seq, source uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, seq)
	if seq >= p.applied {
		p.applied, p.source = seq, source
	}
}

func (p *progress) wait(seq, source uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting[seq] = source
}

func (p *progress) bad(seq uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unreadable[seq] = struct{}{}
}

// Applied is the sequence of SITE_DESIRED up to which every message has been taken
// over, 0 before the first. It is safe for concurrent use.
func (a *API) Applied() uint64 {
	a.progress.mu.Lock()
	defer a.progress.mu.Unlock()
	n := a.progress.applied
	for seq := range a.progress.waiting {
		n = min(n, seq-1)
	}
	return n
}

// AppliedSource is the same place as a sequence of the hub's stream DESIRED, 0 when it
// is not known. It is safe for concurrent use.
func (a *API) AppliedSource() uint64 {
	a.progress.mu.Lock()
	defer a.progress.mu.Unlock()
	n := a.progress.source
	for _, source := range a.progress.waiting {
		n = min(n, max(source, 1)-1)
	}
	return n
}

// sourceOf is the place in DESIRED of a message of SITE_DESIRED, 0 when it says none.
func sourceOf(msg jetstream.Msg) uint64 {
	at, err := streams.ParseSource(msg.Headers().Get(streams.HeaderSource))
	if err != nil {
		return 0
	}
	return at.Seq
}

// Quarantined counts the messages that could not be read since the start, among them
// those that still lie in SITE_DESIRED. It is safe for concurrent use.
func (a *API) Quarantined() uint64 {
	a.progress.mu.Lock()
	defer a.progress.mu.Unlock()
	return uint64(len(a.progress.unreadable))
}

// load fills the store from disk: what the cloud wants, and what is true here.
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
		return a.restore(ctx, reported, msg, md)
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", streams.SiteReported, err)
	}
	err = streams.ReadLast(ctx, desired, nil, func(msg jetstream.Msg, md *jetstream.MsgMetadata) error {
		err := a.take(ctx, desired, msg)
		switch {
		case errors.Is(err, streams.ErrUndecodable):
			// The consumer meets it too, unless it has set it aside before.
			a.progress.bad(md.Sequence.Stream)
		case errors.Is(err, jetstream.ErrMsgNotFound):
			a.log.Warn("desired state lacks a part", zap.String("subject", msg.Subject()), zap.Uint64("seq", md.Sequence.Stream), zap.Error(err))
		case err != nil:
			return err
		}
		a.progress.done(md.Sequence.Stream, sourceOf(msg))
		return nil
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", streams.SiteDesired, err)
	}
	return nil
}

// restore takes over one message of SITE_REPORTED. What is not for this API, or
// cannot be read, is left to the forwarder and the bridge.
func (a *API) restore(ctx context.Context, s jetstream.Stream, msg jetstream.Msg, md *jetstream.MsgMetadata) error {
	if streams.IsPart(msg.Subject()) {
		return nil
	}
	_, m, err := streams.Load(ctx, s, msg.Subject(), msg.Headers(), msg.Data())
	if errors.Is(err, streams.ErrUndecodable) || errors.Is(err, streams.ErrSuperseded) || errors.Is(err, jetstream.ErrMsgNotFound) {
		a.log.Warn("skip unreadable local state", zap.String("subject", msg.Subject()), zap.Uint64("seq", md.Sequence.Stream), zap.Error(err))
		return nil
	}
	if err != nil {
		return err
	}
	gr := schema.GroupResource{Group: m.Group, Resource: m.Resource}
	switch gr {
	case podsGR, nodesGR, eventsGR, csiNodesGR:
	default:
		return nil
	}
	l := &local{op: m.Op, uid: m.UID, node: m.Node, version: m.Version, body: m.Object, seq: md.Sequence.Stream}
	if gr == podsGR && m.Op == streams.OpPut {
		d, err := parseDocument(m.Object)
		if err != nil {
			return err
		}
		l.body = d["status"]
	}
	k := key{m.Namespace, m.Name}
	if _, err := a.store.report(a.store.resource(gr), k, l); err != nil {
		a.log.Warn("skip unreadable local state", zap.String("subject", msg.Subject()), zap.Uint64("seq", md.Sequence.Stream), zap.Error(err))
		return nil
	}
	if gr == eventsGR {
		a.events.add(k, l.seq, md.Timestamp)
	}
	return nil
}

// take takes over one message of SITE_DESIRED.
func (a *API) take(ctx context.Context, s jetstream.Stream, msg jetstream.Msg) error {
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
	err = a.store.apply(m)
	return err
}

// follow takes over what arrives, until ctx ends. It outlives restarts of the stream
// and of the consumer.
func (a *API) follow(ctx context.Context) error {
	failing := false
	for {
		err := a.consume(ctx, func() {
			if failing {
				a.log.Info("following desired state again", zap.String("stream", streams.SiteDesired))
			}
			failing = false
		})
		if ctx.Err() != nil {
			return nil
		}
		if !failing {
			a.log.Warn("following desired state interrupted", zap.String("stream", streams.SiteDesired), zap.Error(err))
		}
		failing = true
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followRetry):
		}
	}
}

func (a *API) consume(ctx context.Context, running func()) error {
	err := streams.EnsureConsumer(ctx, a.cfg.JS, streams.SiteDesired,
		streams.LocalConsumer(streams.ApplyConsumer, "what the node API has taken over", 256))
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
	// What an earlier reader was given and did not acknowledge comes at once, and not only
	// when its time to acknowledge is over.
	if _, err := s.ResetConsumer(ctx, streams.ApplyConsumer); err != nil {
		return fmt.Errorf("reset consumer %s: %w", streams.ApplyConsumer, err)
	}
	msgs, err := c.Messages(jetstream.PullMaxMessages(applyAhead))
	if err != nil {
		return fmt.Errorf("read consumer %s: %w", streams.ApplyConsumer, err)
	}
	defer msgs.Stop()
	running()
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

// handle takes one message over and only then acknowledges it. One that cannot be taken
// over now comes again and holds up nothing.
func (a *API) handle(ctx context.Context, s jetstream.Stream, msg jetstream.Msg) error {
	md, err := msg.Metadata()
	if err != nil {
		return err
	}
	seq := md.Sequence.Stream
	err = a.take(ctx, s, msg)
	if errors.Is(err, jetstream.ErrMsgNotFound) && md.NumDelivered >= partAttempts {
		err = fmt.Errorf("%w: %w", streams.ErrUndecodable, err)
	}
	if errors.Is(err, streams.ErrUndecodable) {
		err = a.setAside(ctx, msg, seq, err)
	}
	if err != nil {
		a.progress.wait(seq, sourceOf(msg))
		if ctx.Err() != nil {
			return err
		}
		a.log.Warn("desired state comes again", zap.String("subject", msg.Subject()), zap.Uint64("seq", seq), zap.Error(err))
		if err := msg.NakWithDelay(partRetry); err != nil {
			return fmt.Errorf("refuse %s: %w", msg.Subject(), err)
		}
		return nil
	}
	a.progress.done(seq, sourceOf(msg))
	if err := msg.Ack(); err != nil {
		return fmt.Errorf("acknowledge %s: %w", msg.Subject(), err)
	}
	return nil
}

// setAside keeps an unreadable message where a person finds it.
func (a *API) setAside(ctx context.Context, msg jetstream.Msg, seq uint64, reason error) error {
	if err := streams.QuarantineMessage(ctx, a.cfg.JS, streams.SiteQuarantine, msg.Subject(), msg.Headers(), msg.Data(), reason); err != nil {
		return err
	}
	a.progress.bad(seq)
	a.log.Warn("message set aside", zap.String("subject", msg.Subject()), zap.Uint64("seq", seq), zap.Error(reason))
	return nil
}
