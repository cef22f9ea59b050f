package forward

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/leaf/journal"
	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams"
)

// openConsumer returns the consumer and its acknowledgement floor. It is in memory: on disk, its
// state is two thirds of what a gateway with devices writes. What it knows is in the log of drops
// and at the hub. A consumer that an earlier version left on disk is replaced.
func (c Config) openConsumer(ctx context.Context, s jetstream.Stream, l journal.Timeline) (consumer jetstream.Consumer, floor uint64, err error) {
	consumer, err = s.Consumer(ctx, streams.ForwardConsumer)
	onDisk := err == nil && !consumer.CachedInfo().Config.MemoryStorage
	switch {
	case err == nil && !onDisk:
		return consumer, consumer.CachedInfo().AckFloor.Stream, nil
	case onDisk:
		floor = consumer.CachedInfo().AckFloor.Stream
		err = s.DeleteConsumer(ctx, streams.ForwardConsumer)
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		err = nil
	}
	if err == nil {
		saved, _ := c.Drops.LastForwarded(c.Stream, l)
		cfg := streams.LocalConsumer(streams.ForwardConsumer, "what the hub has stored", 2*transfer.BatchMessages)
		cfg.AckWait, cfg.MemoryStorage = ackWait, true
		if consumer, err = s.CreateConsumer(ctx, cfg); err == nil {
			_, err = s.ResetConsumerToSequence(ctx, streams.ForwardConsumer, min(max(saved, floor), s.CachedInfo().State.LastSeq)+1)
		}
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open consumer %s of %s: %w", streams.ForwardConsumer, c.Stream, err)
	}
	return consumer, floor, nil
}

// createConsumer creates the consumer before the first session, so that what waits can be seen while the
// link is down.
func (c Config) createConsumer(ctx context.Context) error {
	l, err := c.Timelines.Timeline(ctx)
	if err != nil {
		return err
	}
	s, err := c.JS.Stream(ctx, c.Stream)
	if err != nil {
		return fmt.Errorf("open %s: %w", c.Stream, err)
	}
	_, _, err = c.openConsumer(ctx, s, l)
	return err
}
