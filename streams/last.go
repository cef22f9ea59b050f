package streams

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// lastAhead is the number of messages that ReadLast buffers.
	lastAhead = 16
	// lastWait is the time without a message after which ReadLast asks the server whether
	// there are more.
	lastWait = time.Second
)

// ReadLast calls handle with the last message of each subject in stream that matches one of
// filters (all subjects if filters is empty), in stream order. It blocks until it has read
// them or ctx ends, and returns the first error of handle. It does not wait for messages
// that are removed in the meantime.
func ReadLast(ctx context.Context, stream jetstream.Stream, filters []string, handle func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	c, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		FilterSubjects: filters, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy,
	})
	if err != nil {
		return err
	}
	if c.CachedInfo().NumPending == 0 {
		return nil
	}
	msgs, err := c.Messages(jetstream.PullMaxMessages(lastAhead))
	if err != nil {
		return err
	}
	defer msgs.Stop()
	read := uint64(0)
	for {
		waitCtx, cancel := context.WithTimeout(ctx, lastWait)
		msg, err := msgs.Next(jetstream.NextContext(waitCtx))
		cancel()
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			// An error of Info does not end the loop: the consumer survives a restart of the server.
			if info, err := c.Info(ctx); err == nil && info.NumPending == 0 && info.Delivered.Consumer <= read {
				return nil
			}
			continue
		}
		if err != nil {
			return err
		}
		md, err := msg.Metadata()
		if err != nil {
			return err
		}
		if err := handle(msg, md); err != nil {
			return err
		}
		if read = md.Sequence.Consumer; md.NumPending == 0 {
			return nil
		}
	}
}
