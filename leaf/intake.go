package leaf

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/streams"
)

// intake is what the hub sends during one session.
type intake struct {
	deliveries <-chan *nats.Msg
	order      deliveryOrder
}

// arrival is what one call of gather brought.
type arrival struct {
	// batch is to be stored, in order.
	batch []delivery
	// size is the batch's, in bytes.
	size int
	// caughtUp: behind the batch, or behind a heartbeat without one, nothing waits.
	caughtUp bool
	// began: the hub began again at number 1 after it had delivered before.
	began bool
	// verify: the bridge asks for a comparison.
	verify bool
}

// gather waits for the next delivery, heartbeat or word of the bridge and takes along
// what is there already, up to what one commit carries. An error ends the session.
func (in *intake) gather(ctx context.Context) (arrival, error) {
	var a arrival
	silence := time.NewTimer(hubSilence)
	defer silence.Stop()
	select {
	case <-ctx.Done():
		return arrival{}, context.Cause(ctx)
	case <-silence.C:
		return arrival{}, fmt.Errorf("no heartbeat from the hub for %s", hubSilence)
	case msg := <-in.deliveries:
		if err := in.take(&a, msg); err != nil {
			return arrival{}, err
		}
	}
	for len(a.batch) < batchMessages && a.size < commitBytes {
		select {
		case msg := <-in.deliveries:
			if err := in.take(&a, msg); err != nil {
				return arrival{}, err
			}
		default:
			return a, nil
		}
	}
	return a, nil
}

func (in *intake) take(a *arrival, msg *nats.Msg) error {
	if word := control(msg); word != "" {
		a.verify = a.verify || word == streams.ControlVerify
		return nil
	}
	seen := in.order.last
	d, ok, err := in.order.take(msg)
	switch {
	case err != nil:
		return err
	case ok:
		if d.consumer == 1 {
			a.batch, a.size = a.batch[:0], 0
			a.began = a.began || seen > 0
		}
		a.batch, a.size = append(a.batch, d), a.size+d.Size()
		a.caughtUp = d.pending == 0
	case msg.Reply == "":
		a.caughtUp = true // a heartbeat: all that was delivered has been seen
	}
	return nil
}
