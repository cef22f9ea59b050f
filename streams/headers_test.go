package streams_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/streams"
)

// TestHeadersOfASiteChangeNothing has a site publish to its own streams with the headers by which
// nats-server purges, schedules and counts: the hub stores none of them.
func TestHeadersOfASiteChangeNothing(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	h := natstest.StartHub(t, "plant-a")
	js, err := jetstream.New(h.Connect(t, "bridge"))
	if err != nil {
		t.Fatal(err)
	}
	if err := streams.Ensure(ctx, js, streams.SiteStreams("plant-a", streams.SiteLimits{})); err != nil {
		t.Fatal(err)
	}
	site := h.Connect(t, "plant-a")
	publish := func(subject, header, value string) (stored bool, answer string) {
		t.Helper()
		m := nats.NewMsg(subject)
		m.Header.Set(header, value)
		m.Data = []byte("{}")
		r, err := site.RequestMsgWithContext(ctx, m)
		if err != nil {
			t.Fatal(err)
		}
		var ack struct {
			Error *json.RawMessage `json:"error"`
		}
		if err := json.Unmarshal(r.Data, &ack); err != nil {
			t.Fatal(err)
		}
		return ack.Error == nil, string(r.Data)
	}
	tried := 0
	for _, subject := range []string{streams.ReportedSubject("plant-a", streams.Ref{Node: "a1", Resource: "nodes", Name: "a1"}), streams.TelemetrySubject("plant-a", "sample", "default", "pump")} {
		if ok, answer := publish(subject, "X", "y"); !ok {
			t.Fatalf("%s without such a header: %s", subject, answer)
		}
		for header, value := range map[string]string{
			"Nats-Rollup": "all", "Nats-Schedule": "@at 2030-01-01T00:00:00Z", "Nats-Incr": "+1", "Nats-Expected-Stream": streams.Desired,
		} {
			if ok, answer := publish(subject, header, value); ok {
				t.Errorf("%s with %s: %s is stored: %s", subject, header, value, answer)
			}
			tried++
		}
	}
	for _, stream := range []string{streams.Reported("plant-a"), streams.Telemetry("plant-a")} {
		s, err := js.Stream(ctx, stream)
		if err != nil {
			t.Fatal(err)
		}
		if n := s.CachedInfo().State.Msgs; n != 1 {
			t.Errorf("%s has %d messages, want the one without such a header", stream, n)
		}
	}
	t.Logf("MEASURED %d messages tried, none stored", tried)
}
