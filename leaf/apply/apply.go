// Package apply applies the messages of SITE_DESIRED, for the node API and for the device
// worker: a durable consumer, one message at a time.
//
// It acknowledges a message only after it was applied, is superseded, or is in
// SITE_QUARANTINE because nothing can make it readable. A message that cannot be applied now
// is delivered again. What an earlier process received and did not acknowledge is delivered
// again at once, and not only after its AckWait. Apply knows nothing about the objects: its
// callers do.
package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/internal/logonce"
	"github.com/petiole-io/petiole/streams"
)

const (
	// buffered is the number of messages that are buffered in memory.
	buffered = 16
	// partAttempts is the number of deliveries after which a large object with a missing
	// part is quarantined: until then the part may still arrive.
	partAttempts = 30
	// defaultRetryDelay is the default of Config.RetryDelay.
	defaultRetryDelay = time.Second
)

// operation names Run in the log.
const operation = "apply desired state"

// errPartMissing reports that a part of a large object is not in the stream.
var errPartMissing = errors.New("part missing")

// Config configures an Applier. All fields but RetryDelay are required.
type Config struct {
	JS jetstream.JetStream
	// Consumer is the durable consumer on SITE_DESIRED, see streams.LocalConsumer. Its
	// FilterSubjects select the messages to apply, all if it has none. With a MaxAckPending
	// of 1 a message that is delivered again holds up those behind it.
	Consumer jetstream.ConsumerConfig
	// Apply applies one message. It must return nil for a message that it has applied
	// before. An error that wraps streams.ErrUndecodable is permanent. Apply is not called
	// concurrently.
	Apply func(context.Context, streams.Message) error
	// RetryDelay is the delay before a message that could not be applied is delivered
	// again, and before Run starts again after an error; default 1 s.
	RetryDelay time.Duration
	Log        *zap.Logger
}

// Applier applies the messages of SITE_DESIRED. Its methods are safe for concurrent use,
// except that Load must not be called while Run runs.
type Applier struct {
	cfg      Config
	log      *zap.Logger
	outcomes *logonce.Reporter
	loaded   chan struct{}
	progress progress
}

// New returns an Applier. It does no I/O.
func New(cfg Config) *Applier {
	if cfg.RetryDelay == 0 {
		cfg.RetryDelay = defaultRetryDelay
	}
	log := cfg.Log.With(zap.String("consumer", cfg.Consumer.Durable))
	return &Applier{
		cfg: cfg, log: log, outcomes: logonce.New(log), loaded: make(chan struct{}),
		progress: progress{waiting: map[uint64]uint64{}, unreadable: map[uint64]struct{}{}},
	}
}

// Loaded returns a channel that is closed when Load has returned nil.
func (a *Applier) Loaded() <-chan struct{} { return a.loaded }

// Load applies the last message of every subject that is in SITE_DESIRED now, acknowledged
// or not: the caller knows nothing after a restart. It acknowledges nothing. Run does it
// unless it was done; nobody may call it again once it has returned nil.
func (a *Applier) Load(ctx context.Context) error {
	s, err := a.stream(ctx)
	if err != nil {
		return err
	}
	err = streams.ReadLast(ctx, s, a.cfg.Consumer.FilterSubjects, func(msg jetstream.Msg, md *jetstream.MsgMetadata) error {
		err := a.apply(ctx, s, msg)
		switch {
		case errors.Is(err, streams.ErrUndecodable):
			// It may have been acknowledged by an earlier version that could read it.
			if err := a.quarantine(ctx, msg, md.Sequence.Stream, err); err != nil {
				a.log.Warn("unreadable object not quarantined", zap.String("subject", msg.Subject()), zap.Uint64("seq", md.Sequence.Stream), zap.Error(err))
			}
		case errors.Is(err, errPartMissing):
			// Run tries it again.
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
	close(a.loaded)
	return nil
}

// Run applies new messages until ctx ends, and returns nil. It starts again after an error,
// such as a restart of the server or a new stream.
func (a *Applier) Run(ctx context.Context) error {
	for {
		err := a.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		a.outcomes.Report(operation, err, zap.String("stream", streams.SiteDesired))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(a.cfg.RetryDelay):
		}
	}
}

// follow loads, if Load was not called, and applies new messages until an error.
func (a *Applier) follow(ctx context.Context) error {
	select {
	case <-a.loaded:
	default:
		if err := a.Load(ctx); err != nil {
			return err
		}
	}
	name := a.cfg.Consumer.Durable
	if err := streams.EnsureConsumer(ctx, a.cfg.JS, streams.SiteDesired, a.cfg.Consumer); err != nil {
		return err
	}
	s, err := a.stream(ctx)
	if err != nil {
		return err
	}
	c, err := s.Consumer(ctx, name)
	if err != nil {
		return fmt.Errorf("open consumer %s: %w", name, err)
	}
	// Back to the acknowledgement floor: what an earlier process received and did not
	// acknowledge would hold up the others, deletions included, until its AckWait expires.
	if _, err := s.ResetConsumer(ctx, name); err != nil {
		return fmt.Errorf("reset consumer %s: %w", name, err)
	}
	msgs, err := c.Messages(jetstream.PullMaxMessages(buffered))
	if err != nil {
		return fmt.Errorf("read consumer %s: %w", name, err)
	}
	defer msgs.Stop()
	a.outcomes.Report(operation, nil, zap.String("stream", streams.SiteDesired))
	for {
		msg, err := msgs.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("read consumer %s: %w", name, err)
		}
		if err := a.handle(ctx, s, msg); err != nil {
			return err
		}
	}
}

func (a *Applier) stream(ctx context.Context) (jetstream.Stream, error) {
	s, err := a.cfg.JS.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", streams.SiteDesired, err)
	}
	return s, nil
}

// handle applies one message and then acknowledges it, or has it delivered again.
func (a *Applier) handle(ctx context.Context, s jetstream.Stream, msg jetstream.Msg) error {
	md, err := msg.Metadata()
	if err != nil {
		return fmt.Errorf("read %s: %w", msg.Subject(), err)
	}
	seq := md.Sequence.Stream
	err = a.apply(ctx, s, msg)
	if errors.Is(err, errPartMissing) && md.NumDelivered >= partAttempts {
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
		if err := msg.NakWithDelay(a.cfg.RetryDelay); err != nil {
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

// apply reads one message, with its parts, and has it applied. It returns nil for a part
// and for a message that is superseded: the newer version has its own message.
func (a *Applier) apply(ctx context.Context, s jetstream.Stream, msg jetstream.Msg) error {
	if streams.IsPart(msg.Subject()) {
		return nil
	}
	_, m, err := streams.Load(ctx, s, msg.Subject(), msg.Headers(), msg.Data())
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return fmt.Errorf("%w: %w", errPartMissing, err)
	}
	if err == nil {
		err = a.cfg.Apply(ctx, m)
	}
	if errors.Is(err, streams.ErrSuperseded) {
		return nil
	}
	return err
}
