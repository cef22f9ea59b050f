package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	// records are stored in one transaction, at most.
	records = 500
	// gather is how long a transaction waits for one more record.
	gather = 20 * time.Millisecond
)

// store keeps records durably.
type store interface {
	Position(ctx context.Context, stream string, created int64) (uint64, error)
	Store(ctx context.Context, b batch) error
}

// historian reads the streams of all sites and stores what they have.
type historian struct {
	js       jetstream.JetStream
	store    store
	consumer string
	// lookEvery is how often it looks for streams of new sites.
	lookEvery time.Duration
	log       *zap.Logger

	mu      sync.Mutex
	reading map[string]bool
}

// run reads until ctx ends. It returns an error if the hub cannot be asked for its streams at the
// start; later errors are logged and tried again.
func (h *historian) run(ctx context.Context) error {
	h.reading = map[string]bool{}
	var readers sync.WaitGroup
	defer readers.Wait()
	if err := h.look(ctx, &readers); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(h.lookEvery):
		}
		if err := h.look(ctx, &readers); err != nil && ctx.Err() == nil {
			h.log.Error("cannot list the hub's streams, will try again", zap.Error(err))
		}
	}
}

// look starts a reader for each stream of telemetry that has none.
func (h *historian) look(ctx context.Context, readers *sync.WaitGroup) error {
	names := h.js.StreamNames(ctx, jetstream.WithStreamListSubject("telemetry.>"))
	for name := range names.Name() {
		site, ok := strings.CutPrefix(name, "TELEMETRY_")
		if !ok || !h.begin(name) {
			continue
		}
		readers.Go(func() {
			defer h.end(name)
			err := h.read(ctx, site, name)
			if err != nil && ctx.Err() == nil {
				h.log.Error("reading a stream ended, will begin again", zap.String("stream", name), zap.Error(err))
			}
		})
	}
	if err := names.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
		return fmt.Errorf("list the hub's streams: %w", err)
	}
	return nil
}

func (h *historian) begin(stream string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reading[stream] {
		return false
	}
	h.reading[stream] = true
	return true
}

func (h *historian) end(stream string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.reading, stream)
}

// read stores the records of one stream until ctx ends, the stream is deleted, or another historian has
// stored some of it.
func (h *historian) read(ctx context.Context, site, name string) error {
	stream, err := h.js.Stream(ctx, name)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", name, err)
	}
	b := batch{site: site, stream: name, created: stream.CachedInfo().Created.UnixNano()}
	if b.after, err = h.store.Position(ctx, name, b.created); err != nil {
		return err
	}
	// It delivers each record that the stream has, in order: what it leaves out the hub has removed.
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: b.after + 1, NamePrefix: h.consumer + "_" + nuid.Next(), // one of an earlier time may still exist
	})
	if err != nil {
		return fmt.Errorf("create a consumer of %s: %w", name, err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(2 * records))
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	defer messages.Stop()
	h.log.Info("reading a stream", zap.String("stream", name), zap.Uint64("after", b.after))
	for {
		if err := b.fill(ctx, messages); err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if err := h.insist(ctx, b); err != nil {
			return err
		}
		b.after = b.last
	}
}

// fill waits for a record, and takes it and those that come at once after it.
func (b *batch) fill(ctx context.Context, messages jetstream.MessagesContext) error {
	b.rows, b.messages, b.removed, b.last = rows{}, nil, nil, b.after
	m, err := messages.Next(jetstream.NextContext(ctx))
	for n := 0; err == nil; n++ {
		if err := b.take(m); err != nil || n == records {
			return err
		}
		m, err = messages.Next(jetstream.NextMaxWait(gather))
	}
	if b.last > b.after && errors.Is(err, nats.ErrTimeout) {
		return nil
	}
	return err
}

// take adds one record, and a gap if some are missing before it.
func (b *batch) take(m jetstream.Msg) error {
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	sequence := meta.Sequence.Stream
	if sequence > b.last+1 {
		b.removed = append(b.removed, gap{b.site, b.stream, b.created, b.last + 1, sequence - 1, hubLimit, time.Now()})
	}
	one := message{b.stream, b.created, sequence, m.Subject(), m.Data()}
	b.messages = append(b.messages, one)
	b.add(one)
	b.last = sequence
	return nil
}

// insist stores a batch, again and again while the database cannot.
func (h *historian) insist(ctx context.Context, b batch) error {
	backoff := wait.Backoff{Duration: time.Second, Factor: 2, Steps: 6, Cap: time.Minute, Jitter: 0.1}
	for {
		err := h.store.Store(ctx, b)
		if err == nil || errors.Is(err, errMoved) || ctx.Err() != nil {
			return err
		}
		h.log.Error("records are not stored, will try again", zap.Error(err))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(backoff.Step()):
		}
	}
}
