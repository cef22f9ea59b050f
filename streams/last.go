package streams

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// lastAhead bounds the messages of ReadLast that wait in memory.
	lastAhead = 16
	// lastWait is after how long without a message ReadLast asks whether more will come.
	lastWait = time.Second
)

// ReadLast calls take with the last message of every subject that stream holds now and that
// matches one of filters, all without any, in the order of the stream. It blocks until it
// has read them or ctx ends, and returns the first error of take. What is removed meanwhile
// is not waited for.
func ReadLast(ctx context.Context, stream jetstream.Stream, filters []string, take func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
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
		waiting, cancel := context.WithTimeout(ctx, lastWait)
		msg, err := msgs.Next(jetstream.NextContext(waiting))
		cancel()
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			// An error of the question is no end: the consumer outlives the server's restart.
			if now, err := c.Info(ctx); err == nil && now.NumPending == 0 && now.Delivered.Consumer <= read {
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
		if err := take(msg, md); err != nil {
			return err
		}
		if read = md.Sequence.Consumer; md.NumPending == 0 {
			return nil
		}
	}
}
