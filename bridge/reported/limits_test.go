package reported

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/streams"
)

// eventOf returns an Event that plant-b reports, with so many bytes.
func eventOf(n, bytes int) *nats.Msg {
	ref := streams.Ref{Node: "b1", Resource: "events", Namespace: "default", Name: fmt.Sprint("e", n)}
	body := fmt.Sprintf(`{"metadata":{"name":%q},"message":"`, ref.Name)
	return put(streams.ReportedSubject("plant-b", ref), body+strings.Repeat("x", bytes-len(body)-2)+`"}`)
}

// Events beyond a site's rate are dropped, counted and shown by its Site; another site's report
// is written meanwhile, and no more Events than allowed reach the API server.
func TestEventsBeyondTheRateAreDropped(t *testing.T) {
	t.Parallel()
	const n, bytes = 1000, 12 << 10
	var written atomic.Int64
	w := startFlooded(t, func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/events") {
			written.Add(1)
		}
		accepts(rw, r)
	})
	var flood []*nats.Msg
	for i := range n {
		flood = append(flood, eventOf(i, bytes))
	}
	w.send(flood...)
	w.start()
	w.say("first")
	w.await("all dealt with", func() bool { return w.behind("plant-a") == 0 && w.behind("plant-b") == 0 })
	w.await("removed", func() bool { return len(w.stored("reported.plant-b.>")) == 1 })
	accepted, dropped := written.Load(), w.limited.Load()
	t.Logf("%d Events of %d bytes: %d written, %d dropped", n, bytes, accepted, dropped)
	if accepted+dropped != n || w.count.Accepted.Load() != uint64(accepted)+1 {
		t.Errorf("%d Events written and %d dropped, want %d together; %d reports accepted, want one more", accepted, dropped, n, w.count.Accepted.Load())
	}
	// The burst, and what the rate allows in a minute.
	if least, most := int64(2<<20/bytes), int64((2<<20+60*16<<10)/bytes); accepted < least || accepted > most {
		t.Errorf("%d Events written, want %d to %d", accepted, least, most)
	}
	reason, message, present := w.problems.Present("plant-b", v1alpha1.ConditionWithinLimits)
	if !present || reason != v1alpha1.ReasonEventRate || !strings.Contains(message, "dropped") {
		t.Errorf("the condition: %v %s: %s", present, reason, message)
	}
	if _, _, present := w.problems.Present("plant-a", v1alpha1.ConditionWithinLimits); present {
		t.Error("another site's condition says so")
	}
}

// Changes beyond a site's rate are written later, and lose nothing.
func TestWritesBeyondTheRateAreDelayed(t *testing.T) {
	t.Parallel()
	const size = 100 << 10
	w := startFlooded(t, accepts)
	w.start()
	ref := streams.Ref{Node: "b1", Resource: "pods", Namespace: "default", Name: "large"}
	for i := 0; w.limited.Load() == 0; i++ {
		if i > 1000 {
			t.Fatal("never delayed")
		}
		accepted := w.count.Accepted.Load()
		// Without parts: the hub's limit is larger.
		w.send(put(streams.ReportedSubject("plant-b", ref), fmt.Sprintf(`{"metadata":{"name":"large"},"status":{"message":"%d%s"}}`, i, strings.Repeat("x", size))))
		w.await("written or delayed", func() bool { return w.count.Accepted.Load() > accepted || w.limited.Load() > 0 })
	}
	accepted := w.count.Accepted.Load()
	if bytes := accepted * size; bytes < 8<<20*9/10 {
		t.Errorf("delayed after %d bytes", bytes)
	}
	w.say("first")
	w.await("both written", func() bool { return w.count.Accepted.Load() >= accepted+2 })
	w.await("dealt with", func() bool { return w.behind("plant-b") == 0 })
	reason, _, present := w.problems.Present("plant-b", v1alpha1.ConditionWithinLimits)
	if !present || reason != v1alpha1.ReasonWriteRate {
		t.Errorf("the condition: %v %s", present, reason)
	}
}

// What one site has in quarantine displaces nothing of another's.
func TestQuarantineIsShared(t *testing.T) {
	t.Parallel()
	const n, bytes = 1500, 60 << 10 // 90 MB: more than QUARANTINE has room for
	w := startFlooded(t, accepts)
	w.start()
	bad := func(site, name, data string) *nats.Msg {
		return put(streams.ReportedSubject(site, streams.Ref{Node: "n", Resource: "pods", Namespace: "default", Name: name}), data)
	}
	w.send(bad("plant-a", "web", "{"))
	w.await("the other site's", func() bool { return w.count.Quarantined.Load() == 1 })
	large := strings.Repeat("x", bytes)
	for i := range n {
		w.send(bad("plant-b", fmt.Sprint("p", i%50), large))
		if i%50 == 49 {
			w.await("quarantined", func() bool { return w.count.Quarantined.Load() > uint64(i) })
		}
	}
	q, err := w.hub.JS.Stream(t.Context(), streams.Quarantine)
	if err != nil {
		t.Fatal(err)
	}
	count := func(site string) (messages uint64) {
		info, err := q.Info(t.Context(), jetstream.WithSubjectFilter(streams.QuarantineFilter(site)))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range info.State.Subjects {
			messages += n
		}
		return messages
	}
	a, b := count("plant-a"), count("plant-b")
	state := q.CachedInfo().State
	t.Logf("%d rejected reports of %d bytes: QUARANTINE has %d of them and %d of the other site, %d MiB", n, bytes, b, a, state.Bytes>>20)
	if a != 1 || b < quarantineMessages || b > quarantineMessages+quarantineTrim {
		t.Errorf("QUARANTINE has %d messages of plant-a and %d of plant-b, want 1 and %d to %d", a, b, quarantineMessages, quarantineMessages+quarantineTrim)
	}
}
