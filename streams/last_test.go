package streams_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
)

// TestReadLastDoesNotWaitForWhatIsRemoved removes the last message while the ones before it,
// which announce one more, are on their way: ReadLast returns without it.
func TestReadLastDoesNotWaitForWhatIsRemoved(t *testing.T) {
	const ahead = 16 // what ReadLast asks for at first
	ctx, js := hub(t)
	s, err := js.Stream(ctx, streams.Desired)
	if err != nil {
		t.Fatal(err)
	}
	for i := range ahead + 1 {
		if _, err := js.Publish(ctx, fmt.Sprintf("desired.plant-a._._.configmaps.default.c%d", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	delivered := func() (n uint64) {
		for c := range s.ListConsumers(ctx).Info() {
			n = max(n, c.Delivered.Consumer)
		}
		return n
	}
	read := 0
	start := time.Now()
	err = streams.ReadLast(ctx, s, nil, func(jetstream.Msg, *jetstream.MsgMetadata) error {
		if read++; read > 1 {
			return nil
		}
		for delivered() < ahead {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			time.Sleep(5 * time.Millisecond)
		}
		return s.DeleteMsg(ctx, ahead+1)
	})
	if err != nil || read != ahead {
		t.Errorf("%d messages read, want %d; error %v after %s", read, ahead, err, time.Since(start).Round(time.Millisecond))
	}
}

// TestReadLastReadsTheNewestOfEach reads the newest message of each matching subject.
func TestReadLastReadsTheNewestOfEach(t *testing.T) {
	ctx, js := hub(t)
	s, err := js.Stream(ctx, streams.Desired)
	if err != nil {
		t.Fatal(err)
	}
	for _, resource := range []string{"pods", "configmaps", "pods", "secrets"} {
		for i := range 100 {
			if _, err := js.Publish(ctx, fmt.Sprintf("desired.plant-a._._.%s.default.c%d", resource, i), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	var got []uint64
	err = streams.ReadLast(ctx, s, []string{streams.DesiredResourceFilter("plant-a", "*", "", "pods"), streams.DesiredResourceFilter("plant-a", "*", "", "secrets")},
		func(_ jetstream.Msg, md *jetstream.MsgMetadata) error {
			got = append(got, md.Sequence.Stream)
			return nil
		})
	if err != nil || len(got) != 200 || got[0] != 201 || got[199] != 400 {
		t.Errorf("%d messages: %v, error %v", len(got), got, err)
	}
	if err := streams.ReadLast(ctx, s, []string{"desired.plant-b.>"}, nil); err != nil {
		t.Errorf("nothing to read: %v", err)
	}
}
