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
	deliveries []delivery
	// size is the batch's, in bytes.
	size int
	// caughtUp: behind the batch, or behind a heartbeat without one, nothing waits.
	caughtUp bool
	// began: the hub began again at number 1 after it had delivered before; the batch ends
	// before that.
	restarted bool
	// verify: the bridge asks for a comparison.
	verifyRequested bool
}

// gather asks for deliveries, waits for the next one, a heartbeat or a word of the bridge,
// and takes along what is there already, up to what one commit carries. An error ends the
// session.
func (in *batcher) next(ctx context.Context) (batch, error) {
	var a batch
	if err := in.pull.request(time.Now()); err != nil {
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
		if err := in.add(&a, msg); err != nil {
			return batch{}, err
		}
	}
	for len(a.deliveries) < batchMessages && a.size < commitBytes && !a.restarted {
		if err := in.pull.request(time.Now()); err != nil {
			return batch{}, err
		}
		select {
		case msg := <-in.deliveries:
			if err := in.add(&a, msg); err != nil {
				return batch{}, err
			}
		default:
			return a, nil
		}
	}
	return a, nil
}

func (in *batcher) add(a *batch, msg *nats.Msg) error {
	if word := control(msg); word != "" {
		a.verifyRequested = a.verifyRequested || word == streams.ControlVerify
		return nil
	}
	if msg.Reply == "" {
		if msg.Header.Get("Status") != "100" {
			return in.pull.status(msg, time.Now())
		}
		a.caughtUp = true // all that was delivered has been seen, and nothing waits
		return in.order.heartbeat(msg)
	}
	d, began, err := in.order.accept(msg)
	if err != nil || began {
		a.restarted = began
		return err
	}
	in.pull.delivered(d, time.Now())
	a.deliveries, a.size = append(a.deliveries, d), a.size+d.Size()
	a.caughtUp = d.pending == 0
	return nil
}
