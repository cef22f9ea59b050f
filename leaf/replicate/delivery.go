package replicate

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/streams"
)

// delivery is a message from the hub's consumer, with its stream sequence, its consumer sequence
// since the reset, and the number of messages that wait behind it.
type delivery struct {
	*nats.Msg
	stream, consumer, pending uint64
}

// errGap says that a delivery is missing.
var errGap = errors.New("deliveries are missing")

// deliveryOrder accepts an unbroken run of deliveries from number 1. The zero value has accepted
// none.
type deliveryOrder struct{ last uint64 }

// accept returns the next delivery of the run. began reports that it is number 1 again, as after
// a reset by somebody else. It returns errGap if the run is broken, for example because a
// request from before the line was cut took deliveries.
func (o *deliveryOrder) accept(msg *nats.Msg) (d delivery, began bool, err error) {
	d, err = parseDelivery(msg)
	switch {
	case err != nil:
		return delivery{}, false, err
	case d.consumer == o.last+1:
		o.last = d.consumer
		return d, false, nil
	case d.consumer == 1:
		return delivery{}, true, nil
	}
	return delivery{}, false, fmt.Errorf("%w: number %d came after %d", errGap, d.consumer, o.last)
}

// heartbeat compares the last number that the hub delivered with the last one that was accepted.
// began reports that the hub has delivered fewer, as after a reset by somebody else.
func (o *deliveryOrder) heartbeat(msg *nats.Msg) (began bool, err error) {
	last, err := strconv.ParseUint(msg.Header.Get("Nats-Last-Consumer"), 10, 64)
	switch {
	case err != nil:
		return false, fmt.Errorf("message on %s is neither a delivery nor a heartbeat", msg.Subject)
	case last > o.last:
		return false, fmt.Errorf("%w: the hub delivered up to number %d, %d was seen", errGap, last, o.last)
	}
	return last < o.last, nil
}

// control returns the control message of the bridge in msg, or "" if it is something else.
func control(msg *nats.Msg) string {
	if msg.Reply != "" {
		return ""
	}
	return msg.Header.Get(streams.HeaderControl)
}

// parseDelivery parses the reply subject of a delivery,
// $JS.ACK.<stream>.<consumer>.<times>.<stream seq>.<consumer seq>.<time>.<pending>.
func parseDelivery(msg *nats.Msg) (delivery, error) {
	t := strings.Split(msg.Reply, ".")
	if len(t) != 9 || t[0] != "$JS" || t[1] != "ACK" {
		return delivery{}, fmt.Errorf("reply subject %q of %s is not a JetStream acknowledgement", msg.Reply, msg.Subject)
	}
	d := delivery{Msg: msg}
	for i, into := range map[int]*uint64{5: &d.stream, 6: &d.consumer, 8: &d.pending} {
		n, err := strconv.ParseUint(t[i], 10, 64)
		if err != nil {
			return delivery{}, fmt.Errorf("reply subject %q: %w", msg.Reply, err)
		}
		*into = n
	}
	return d, nil
}
