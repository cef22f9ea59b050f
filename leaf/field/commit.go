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

// commitWait is the timeout of a commit: flash memory may stall for seconds.
const commitWait = 5 * time.Second

// commit stores msgs, at most streams.MaxBatch for the same stream, as one atomic batch, and
// returns when they are stored. It returns a *streams.Refusal if the stream rejects them or
// no stream has the subject. After any other error, such as no answer within wait, they may
// be stored or not.
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
	defer cancelOnDisconnect(nc, cancel)()
	reply, err := nc.RequestMsgWithContext(ctx, last)
	if errors.Is(err, nats.ErrNoResponders) {
		err = &streams.Refusal{Description: "no stream has this subject"}
	}
	var ack streams.Ack
	if err == nil {
		ack, err = streams.ReadAck(reply.Data)
	}
	switch {
	case err != nil:
		return fmt.Errorf("store %s: %w", last.Subject, err)
	case len(msgs) > 1 && ack.Count != len(msgs):
		return fmt.Errorf("store %d messages up to %s: the acknowledgement counts %d", len(msgs), last.Subject, ack.Count)
	}
	return nil
}

// cancelOnDisconnect calls cancel when the connection is lost, because the acknowledgement
// is then lost too. The returned function stops watching the connection.
func cancelOnDisconnect(nc *nats.Conn, cancel context.CancelFunc) func() {
	status := nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	var watch sync.WaitGroup
	watch.Go(func() {
		if _, ok := <-status; ok {
			cancel()
		}
	})
	return func() { nc.RemoveStatusListener(status); watch.Wait() }
}
