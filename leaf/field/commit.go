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
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	defer cancelOnDisconnect(nc, cancel)()
	_, err := streams.Commit(ctx, nc, msgs)
	if errors.Is(err, nats.ErrNoResponders) {
		return &streams.Refusal{Description: fmt.Sprintf("no stream has the subject %s", msgs[len(msgs)-1].Subject)}
	}
	return err
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
