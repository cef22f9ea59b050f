package streams_test

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/streams"
)

// TestLastKnown: for each number of messages of a known incarnation before those of another, with
// messages of other subjects and holes between them.
func TestLastKnown(t *testing.T) {
	t.Parallel()
	js, err := jetstream.New(natstest.StartHub(t, "plant-a").Connect(t, "bridge"))
	if err != nil {
		t.Fatal(err)
	}
	for _, known := range []int{0, 1, 2, 5, 8} {
		for _, unknown := range []int{0, 1, 3} {
			name := fmt.Sprintf("S-%d-%d", known, unknown)
			s, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{name + ".>"}})
			if err != nil {
				t.Fatal(err)
			}
			var want string
			for i := range known + unknown {
				id := streams.ForwardID{Site: "plant-a", Stream: streams.SiteTelemetry, SitePosition: streams.SitePosition{Incarnation: 1 + int64(i%2), Seq: uint64(i + 1)}}
				if i >= known {
					id.Incarnation = 9
				} else {
					want = id.String()
				}
				publish(t, js, name+".telemetry", id.String())
				publish(t, js, name+".other", "")
				if i%3 == 1 {
					if err := s.DeleteMsg(t.Context(), uint64(2*i+2)); err != nil {
						t.Fatal(err)
					}
				}
			}
			got, err := streams.LastKnown(t.Context(), s, name+".telemetry", []int64{1, 2})
			if err != nil || got != want {
				t.Errorf("%d known, %d unknown: %q, %v, want %q", known, unknown, got, err, want)
			}
		}
	}
}

func publish(t *testing.T, js jetstream.JetStream, subject, id string) {
	t.Helper()
	m := nats.NewMsg(subject)
	if id != "" {
		m.Header.Set(jetstream.MsgIDHeader, id)
	}
	if _, err := js.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}
