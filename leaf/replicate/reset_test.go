package replicate

import (
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/streams"
)

func TestRewindTo(t *testing.T) {
	at := func(seq uint64, identity string) streams.HubPosition {
		return streams.HubPosition{Seq: seq, Identity: identity}
	}
	for _, c := range []struct {
		site, hub streams.HubPosition
		want      uint64
	}{
		{streams.HubPosition{}, at(0, "s"), 0},
		{at(7, "s"), at(7, "s"), 0},
		{at(9, "s"), at(7, "s"), 0},            // acknowledgements were lost
		{at(4, "s"), at(7, "s"), 5},            // the site's store was rolled back
		{streams.HubPosition{}, at(7, "s"), 1}, // the site's store is new
		{at(9, "s"), at(2, "r"), 1},            // the hub's stream is new
	} {
		if got := rewindTo(c.site, c.hub); got != c.want {
			t.Errorf("rewindTo(%v, %v) = %d, want %d", c.site, c.hub, got, c.want)
		}
	}
}

// FuzzReset decodes any answer of the hub to a reset.
func FuzzReset(f *testing.F) {
	f.Add([]byte(`{"reset_seq":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if a, err := parseReset(data); err == nil && a.floor.Seq+1 == 0 {
			t.Fatalf("%q resets to nothing", data)
		}
	})
}

// TestUnansweredResetIsRepeated loses the first reset of a session.
func TestUnansweredResetIsRepeated(t *testing.T) {
	t.Parallel()
	h := natstest.StartHub(t, "plant-a")
	nc := h.Connect(t, "bridge")
	resets := 0
	if _, err := nc.Subscribe(streams.ResetSubject("plant-a"), func(m *nats.Msg) {
		if resets++; resets == 1 {
			return
		}
		answer := nats.NewMsg(m.Reply)
		answer.Header.Set(streams.HeaderIdentity, "id")
		answer.Data = []byte(`{"reset_seq":8,"num_pending":3}`)
		if err := m.RespondMsg(answer); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	got, err := New(Config{Site: "plant-a", JS: js}).reset(t.Context(), 0)
	if want := (resetAnswer{floor: streams.HubPosition{Seq: 7, Identity: "id"}, pending: 3}); err != nil || got != want {
		t.Fatalf("got %+v, %v, want %+v", got, err, want)
	}
}
