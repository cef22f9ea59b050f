package replicate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/urgent"
)

// errRequestLost ends a session whose request the hub does not have. One that arrives while the consumer
// does not exist is not answered (docs/upstream.md, 29).
var errRequestLost = errors.New("deliveries wait for this site, and the hub has no request for them")

// batcher collects what the hub sends during one session into batches.
type batcher struct {
	deliveries <-chan *nats.Msg
	order      deliveryOrder
	pull       *puller
	overtaker  *overtaker
	meter      *transfer.Meter
	// silence is the time without a message or heartbeat after which the session ends.
	silence time.Duration
}

// batch is what one call of next returns.
type batch struct {
	// deliveries are to be stored, in order.
	deliveries []delivery
	// size is the size of the deliveries in bytes.
	size int
	// caughtUp is set if nothing waits at the hub behind the deliveries, or behind a heartbeat
	// without any.
	caughtUp bool
	// restarted is set if the hub began again at number 1; the deliveries end before that.
	restarted bool
	// verifyRequested is set if the bridge asks for a comparison.
	verifyRequested bool
	// urgent are copies of deliveries that may be stored before their turn.
	urgent []urgent.Message
}

// next requests deliveries and waits for the next one, a heartbeat or a control message of the
// bridge. It adds what has arrived already, up to the size of one commit. An error ends the
// session.
func (in *batcher) next(ctx context.Context) (batch, error) {
	var a batch
	if err := in.request(); err != nil {
		return batch{}, err
	}
	silence := time.NewTimer(in.silence)
	defer silence.Stop()
	select {
	case <-ctx.Done():
		return batch{}, context.Cause(ctx)
	case <-silence.C:
		return batch{}, fmt.Errorf("no heartbeat from the hub for %s", in.silence)
	case msg := <-in.deliveries:
		if err := in.add(&a, msg); err != nil {
			return batch{}, err
		}
	}
	for len(a.deliveries) < transfer.BatchMessages && a.size < transfer.BatchBytes && !a.restarted {
		if err := in.request(); err != nil {
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

// request requests what it is time for: what is urgent goes first.
func (in *batcher) request() error {
	now := time.Now()
	if err := in.overtaker.request(in.pull.waiting, in.pull.window.Bytes(), now); err != nil {
		return err
	}
	return in.pull.request(now)
}

func (in *batcher) add(a *batch, msg *nats.Msg) error {
	in.meter.Down(transfer.KindDesired, msg)
	if msg.Subject == in.overtaker.inbox {
		a.urgent = append(a.urgent, in.overtaker.answered(msg, time.Now())...)
		return nil
	}
	switch word := control(msg); {
	case word == streams.ControlRequest && in.pull.overdue(time.Now()):
		return errRequestLost
	case word != "":
		a.verifyRequested = a.verifyRequested || word == streams.ControlVerify
		return nil
	}
	if msg.Reply == "" {
		if msg.Header.Get("Status") != "100" {
			return in.pull.status(msg, time.Now())
		}
		began, err := in.order.heartbeat(msg)
		a.restarted = began
		a.caughtUp = !began // all that was delivered has been seen, and nothing waits
		return err
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
