package leaf

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// readAhead is how many messages are requested at a time when a whole stream is read.
	readAhead = 256
	// readWait is how long the site's own server may take to deliver them.
	readWait = 5 * time.Second
)

// errUnreadable says that a stream counts messages that it does not deliver.
var errUnreadable = errors.New("messages of the stream cannot be read")

// readLast calls f with the last message of every subject that matches filter and that the
// stream holds now, in stream order. It returns errUnreadable if some are not delivered.
func readLast(ctx context.Context, s jetstream.Stream, filter string, headersOnly bool, f func(jetstream.Msg, *jetstream.MsgMetadata) error) (err error) {
	c, err := s.CreateConsumer(ctx, jetstream.ConsumerConfig{
		FilterSubject: filter, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, AckPolicy: jetstream.AckNonePolicy,
		HeadersOnly: headersOnly, MemoryStorage: true, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return err
	}
	info := c.CachedInfo()
	defer func() {
		// One that is left behind goes by itself after InactiveThreshold.
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), readWait)
		defer cancel()
		_ = s.DeleteConsumer(ending, info.Name)
	}()
	for left := info.NumPending; left > 0; {
		n := min(left, readAhead)
		// The batch's own limit of time: what cannot be read does not come.
		batch, err := c.Fetch(int(n), jetstream.FetchMaxWait(readWait))
		if err != nil {
			return err
		}
		got := uint64(0)
		for msg := range batch.Messages() {
			md, err := msg.Metadata()
			if err != nil {
				return err
			}
			if err := f(msg, md); err != nil {
				return err
			}
			got++
		}
		switch err := batch.Error(); {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !errors.Is(err, nats.ErrTimeout):
			return err
		case got < n:
			return fmt.Errorf("%w: %d of %d are missing", errUnreadable, left-got, info.NumPending)
		}
		left -= got
	}
	return nil
}
