package rig

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// StoredMessage is a message of a stream.
type StoredMessage struct {
	Subject  string
	Sequence uint64
	Header   nats.Header
	Data     []byte
}

// EachMessage reads, in order, the messages of a stream that match filter and were
// stored at or behind sequence from, up to the end as of now. An error of visit ends it.
func EachMessage(ctx context.Context, stream jetstream.Stream, filter string, from uint64, visit func(StoredMessage) error) error {
	c, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{filter}, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(from, 1),
		InactiveThreshold: 5 * time.Second,
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", filter, err)
	}
	info, err := c.Info(ctx)
	if err != nil {
		return fmt.Errorf("read %s: %w", filter, err)
	}
	if info.NumPending == 0 {
		return nil
	}
	// The last one may be replaced while it is read: a fetch that returns nothing ends
	// the reading, too.
	for left := info.NumPending; left > 0; {
		batch, err := c.FetchNoWait(int(min(left, 500)))
		if err != nil {
			return fmt.Errorf("read %s: %w", filter, err)
		}
		n := uint64(0)
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			if err != nil {
				return fmt.Errorf("read %s: %w", filter, err)
			}
			n++
			left = meta.NumPending
			if err := visit(StoredMessage{Subject: m.Subject(), Sequence: meta.Sequence.Stream, Header: m.Headers(), Data: m.Data()}); err != nil {
				return fmt.Errorf("message %d (%s): %w", meta.Sequence.Stream, m.Subject(), err)
			}
		}
		if err := batch.Error(); err != nil {
			return fmt.Errorf("read %s: %w", filter, err)
		}
		if n == 0 {
			return nil
		}
	}
	return nil
}
