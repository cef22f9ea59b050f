package replicate

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDeliveryOrder(t *testing.T) {
	delivery := func(consumer int) *nats.Msg {
		return &nats.Msg{Subject: "desired.a.x", Reply: fmt.Sprintf("$JS.ACK.DESIRED.a.1.%d.%d.1.0", 100+consumer, consumer)}
	}
	beat := func(last int) *nats.Msg {
		return &nats.Msg{Header: nats.Header{"Nats-Last-Consumer": {fmt.Sprint(last)}}}
	}
	for _, c := range []struct {
		name  string
		msgs  []*nats.Msg
		taken int
		began bool
		gap   bool
	}{
		{"unbroken", []*nats.Msg{delivery(1), delivery(2), beat(2), delivery(3)}, 3, false, false},
		{"the beginning went elsewhere", []*nats.Msg{delivery(3), delivery(4)}, 0, false, true},
		{"begins again", []*nats.Msg{delivery(1), delivery(2), delivery(1)}, 2, true, false},
		{"begins again, which a heartbeat shows first", []*nats.Msg{delivery(1), delivery(2), beat(0)}, 2, true, false},
		{"one is missing", []*nats.Msg{delivery(1), delivery(3)}, 1, false, true},
		{"the last is missing", []*nats.Msg{delivery(1), beat(2)}, 1, false, true},
		{"the first is missing", []*nats.Msg{beat(1)}, 0, false, true},
	} {
		var order deliveryOrder
		taken, began := 0, false
		var err error
		for _, m := range c.msgs {
			if m.Reply == "" {
				began, err = order.heartbeat(m)
			} else if _, began, err = order.accept(m); err == nil && !began {
				taken++
			}
			if err != nil || began {
				break
			}
		}
		if taken != c.taken || began != c.began || (err != nil) != c.gap {
			t.Errorf("%s: %d taken, began again %t, error %v; want %d, %t, gap %t", c.name, taken, began, err, c.taken, c.began, c.gap)
		}
	}
}

// newBatcher returns a batcher that takes deliveries from a channel, and its requests go nowhere.
func newBatcher(t *testing.T, deliveries <-chan *nats.Msg) *batcher {
	t.Helper()
	w := newPullWindow()
	return &batcher{deliveries: deliveries, silence: time.Minute, overtaker: &overtaker{}, pull: &puller{window: &w, publish: func(string, []byte) error { return nil }}}
}

func FuzzDelivery(f *testing.F) {
	f.Add("$JS.ACK.DESIRED.plant-a.1.117.17.1700000000000000000.0", "", "")
	f.Add("", "17", "")
	f.Add("", "", "verify")
	f.Fuzz(func(t *testing.T, reply, last, word string) {
		msg := &nats.Msg{Subject: "sync.plant-a", Reply: reply, Header: nats.Header{"Nats-Last-Consumer": {last}, streams.HeaderControl: {word}}}
		in := newBatcher(t, nil)
		var a batch
		err := in.add(&a, msg)
		d, _, again := (&deliveryOrder{}).accept(msg)
		switch {
		case len(a.deliveries) > 1, len(a.deliveries) == 1 && (err != nil || d.consumer != 1):
			t.Fatalf("%q is taken as %+v, %v", reply, a.deliveries, again)
		case a.verifyRequested && (reply != "" || word != streams.ControlVerify):
			t.Fatalf("%q with %q is taken for a word of the bridge", reply, word)
		case a.restarted:
			t.Fatalf("%q begins again what has not begun", reply)
		}
	})
}

// TestBatchOfTheHubIsBounded has large messages waiting.
func TestBatchOfTheHubIsBounded(t *testing.T) {
	deliveries := make(chan *nats.Msg, transfer.BatchMessages)
	for i := range 20 {
		deliveries <- &nats.Msg{Subject: "desired.a.x", Reply: fmt.Sprintf("$JS.ACK.DESIRED.a.1.%d.%d.1.0", i+1, i+1), Data: make([]byte, 100<<10)}
	}
	in := newBatcher(t, deliveries)
	total := 0
	for total < 20 {
		got, err := in.next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(got.deliveries) > 3 {
			t.Errorf("%d messages of 100 KiB in one batch", len(got.deliveries))
		}
		total += len(got.deliveries)
	}
}
