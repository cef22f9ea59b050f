package field

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/streams"
)

// commitWait is how long a commit may take: flash memory may stall for seconds.
const commitWait = 5 * time.Second

// commit stores msgs, of one stream and streams.MaxBatch at most, in one commit, and
// returns when they are stored. A *streams.Refusal is the stream's own answer, or that no
// stream takes the subject; after any other error, as when no answer comes within wait,
// they may be stored or not.
func commit(ctx context.Context, nc *nats.Conn, msgs []*nats.Msg, wait time.Duration) error {
	streams.MarkBatch(msgs)
	last := msgs[len(msgs)-1]
	for _, m := range msgs[:len(msgs)-1] {
		if err := nc.PublishMsg(m); err != nil {
			return fmt.Errorf("store %s: %w", m.Subject, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	defer cancelWhenLost(nc, cancel)()
	reply, err := nc.RequestMsgWithContext(ctx, last)
	if errors.Is(err, nats.ErrNoResponders) {
		err = &streams.Refusal{Description: "no stream takes it"}
	}
	var ack streams.Ack
	if err == nil {
		ack, err = streams.ReadAck(reply.Data)
	}
	switch {
	case err != nil:
		return fmt.Errorf("store %s: %w", last.Subject, err)
	case len(msgs) > 1 && ack.Count != len(msgs):
		return fmt.Errorf("store %d messages up to %s: %d were counted", len(msgs), last.Subject, ack.Count)
	}
	return nil
}

// cancelWhenLost calls cancel when the connection is lost, with which the
// acknowledgement is lost too. The returned function ends the watch.
func cancelWhenLost(nc *nats.Conn, cancel context.CancelFunc) func() {
	lost := nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	var watch sync.WaitGroup
	watch.Go(func() {
		if _, ok := <-lost; ok {
			cancel()
		}
	})
	return func() { nc.RemoveStatusListener(lost); watch.Wait() }
}
