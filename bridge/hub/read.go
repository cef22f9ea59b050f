package hub

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/table"
)

// batchTimeout is the time after which a request for a batch ends, complete or not: messages
// that were pending may have been replaced.
const batchTimeout = 2 * time.Second

// ReadAll calls handle for each message that the stream holds now, from a sequence on, in order.
// With headersOnly the hub does not send the bodies.
func (h *Hub) ReadAll(ctx context.Context, stream jetstream.Stream, from uint64, filter string, headersOnly bool, handle func(jetstream.Msg) error) error {
	name := stream.CachedInfo().Config.Name
	info, err := stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	cons, err := h.JS.CreateConsumer(ctx, name, jetstream.ConsumerConfig{
		Description: "reads a stream into the bridge's cache", FilterSubject: filter, HeadersOnly: headersOnly,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(from, 1), AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: 30 * time.Second,
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	defer func() {
		// It would expire by itself, but until then it would be listed among the sites'
		// consumers.
		_ = h.JS.DeleteConsumer(context.WithoutCancel(ctx), name, cons.CachedInfo().Name)
	}()
	r := reader{name: name, last: info.State.LastSeq, handle: handle, left: cons.CachedInfo().NumPending, next: 1}
	for r.left > 0 {
		if err := r.readBatch(ctx, cons); err != nil {
			return err
		}
		if r.left == 0 {
			return nil
		}
		// Pending messages may have been replaced meanwhile.
		now, err := cons.Info(ctx)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		r.left = now.NumPending
	}
	return nil
}

// reader is the state of one ReadAll.
type reader struct {
	name string
	// last is the last message of the stream when the read began, left the number of messages
	// that are still to be read, next the consumer's number of the next one.
	last, left, next uint64
	handle           func(jetstream.Msg) error
}

// readBatch reads one batch. Its context ends the request with it, also if handle fails.
func (r *reader) readBatch(ctx context.Context, cons jetstream.Consumer) error {
	reading, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	batch, err := cons.Fetch(int(min(r.left, 500)), jetstream.FetchContext(reading))
	if err != nil {
		return fmt.Errorf("read %s: %w", r.name, err)
	}
	for msg := range batch.Messages() {
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("read %s: %w", r.name, err)
		}
		if meta.Sequence.Consumer != r.next {
			return fmt.Errorf("read %s: received message %d instead of %d", r.name, meta.Sequence.Consumer, r.next)
		}
		r.left, r.next = meta.NumPending, r.next+1
		if meta.Sequence.Stream > r.last {
			r.left = 0 // later messages are delivered another way
		}
		if err := r.handle(msg); err != nil {
			return err
		}
	}
	if err := batch.Error(); err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)) {
		return fmt.Errorf("read %s: %w", r.name, err)
	}
	return nil
}

// LastKnown returns the message id of the newest message of one of the hub's streams that an
// incarnation out of known has sent, see streams.LastKnown.
func (h *Hub) LastKnown(ctx context.Context, stream, filter string, known []int64) (string, error) {
	s, err := h.JS.Stream(ctx, stream)
	if err != nil {
		return "", fmt.Errorf("look up stream %s: %w", stream, err)
	}
	return streams.LastKnown(ctx, s, filter, known)
}

// LastMessage returns the newest message of one of the hub's streams that matches, nil if there
// is none. It asks the stream's leader.
func (h *Hub) LastMessage(ctx context.Context, stream, filter string) (*table.Message, error) {
	return table.LastMessage(ctx, h.Conn, streams.HubDomain, stream, filter)
}
