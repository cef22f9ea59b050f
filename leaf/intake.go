package leaf

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/streams"
)

// intake is what the hub sends during one session.
type batcher struct {
	deliveries <-chan *nats.Msg
	order      deliveryOrder
	pull       *puller
}

// arrival is what one call of gather brought.
type batch struct {
	// batch is to be stored, in order.
	batch []delivery
	// size is the batch's, in bytes.
	size int
	// caughtUp: behind the batch, or behind a heartbeat without one, nothing waits.
	caughtUp bool
	// began: the hub began again at number 1 after it had delivered before; the batch ends
	// before that.
	began bool
	// verify: the bridge asks for a comparison.
	verify bool
}

// gather asks for deliveries, waits for the next one, a heartbeat or a word of the bridge,
// and takes along what is there already, up to what one commit carries. An error ends the
// session.
func (in *batcher) gather(ctx context.Context) (batch, error) {
	var a batch
	if err := in.pull.ask(time.Now()); err != nil {
		return batch{}, err
	}
	silence := time.NewTimer(hubSilence)
	defer silence.Stop()
	select {
	case <-ctx.Done():
		return batch{}, context.Cause(ctx)
	case <-silence.C:
		return batch{}, fmt.Errorf("no heartbeat from the hub for %s", hubSilence)
	case msg := <-in.deliveries:
		if err := in.take(&a, msg); err != nil {
			return batch{}, err
		}
	}
	for len(a.batch) < batchMessages && a.size < commitBytes && !a.began {
		if err := in.pull.ask(time.Now()); err != nil {
			return batch{}, err
		}
		select {
		case msg := <-in.deliveries:
			if err := in.take(&a, msg); err != nil {
				return batch{}, err
			}
		default:
			return a, nil
		}
	}
	return a, nil
}

func (in *batcher) take(a *batch, msg *nats.Msg) error {
	if word := control(msg); word != "" {
		a.verify = a.verify || word == streams.ControlVerify
		return nil
	}
	if msg.Reply == "" {
		if msg.Header.Get("Status") != "100" {
			return in.pull.status(msg, time.Now())
		}
		a.caughtUp = true // all that was delivered has been seen, and nothing waits
		return in.order.heartbeat(msg)
	}
	d, began, err := in.order.take(msg)
	if err != nil || began {
		a.began = began
		return err
	}
	in.pull.delivered(d, time.Now())
	a.batch, a.size = append(a.batch, d), a.size+d.Size()
	a.caughtUp = d.pending == 0
	return nil
}
