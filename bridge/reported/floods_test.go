package reported

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/streams"
)

// startFlooded returns a write-back with two sites: plant-a, which reports normally, and
// plant-b.
func startFlooded(t *testing.T, answer http.HandlerFunc) *writing {
	t.Helper()
	w := startWriting(t, answer)
	w.addSite("plant-b", "b1", "large")
	return w
}

// send stores messages in the streams of the sites unchanged.
func (w *writing) send(msgs ...*nats.Msg) {
	w.t.Helper()
	js := w.hub.JS
	for some := range slices.Chunk(msgs, 1000) {
		for _, m := range some {
			if _, err := js.PublishMsgAsync(m); err != nil {
				w.t.Fatal(err)
			}
		}
		select {
		case <-js.PublishAsyncComplete():
		case <-time.After(time.Minute):
			w.t.Fatal("the hub has not stored everything after a minute")
		}
	}
}

// put returns a put message of plant-b.
func put(subject, data string) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Header.Set(streams.HeaderOp, string(streams.OpPut))
	m.Header.Set(streams.HeaderUID, "uid-large")
	m.Data = []byte(data)
	return m
}

// incomplete returns a report whose parts are missing.
func incomplete(name string) *nats.Msg {
	m := put(streams.ReportedSubject("plant-b", streams.Ref{Node: "b1", Resource: "pods", Namespace: "default", Name: name}), "")
	m.Header.Set(streams.HeaderParts, "1")
	return m
}

// accepts is an API server that accepts everything.
func accepts(rw http.ResponseWriter, _ *http.Request) {
	rw.Header().Set("Content-Type", "application/json")
	_, _ = rw.Write([]byte(`{"apiVersion":"v1","kind":"Pod"}`)) // the client may have gone away
}

// awaited returns the number of reports of a site whose parts are awaited.
func (w *writing) awaited(site string) int {
	s := w.reader.state(site)
	if s == nil {
		return 0
	}
	_, incomplete := s.position()
	return len(incomplete)
}

// stored returns the messages of plant-b that match.
func (w *writing) stored(filter string) map[string]uint64 {
	w.t.Helper()
	info, err := w.stream("plant-b").Info(w.t.Context(), jetstream.WithSubjectFilter(filter))
	if err != nil {
		w.t.Fatal(err)
	}
	return info.State.Subjects
}

// flood is the number of messages of a flood: several times what may wait.
const flood = 1100

// Reports whose parts never arrive do not block other sites, are quarantined in the end, and
// a bounded number of them is held while they wait.
func TestMissingPartsHoldUpNobody(t *testing.T) {
	t.Parallel()
	const n = flood
	w := startFlooded(t, accepts)
	var msgs []*nats.Msg
	for i := range n {
		msgs = append(msgs, incomplete(fmt.Sprint("p", i)))
	}
	w.send(msgs...)
	w.start()
	w.say("first")
	w.await("another site's report written", func() bool { return w.count.Accepted.Load() == 1 })
	w.await("as many read as may wait", func() bool { return w.count.Deferred.Load() > 0 })
	if n := w.awaited("plant-b"); n == 0 || n > maxWaiting {
		t.Errorf("%d reports are held, want at most %d", n, maxWaiting)
	}
	if q := w.count.Quarantined.Load(); q != 0 {
		t.Errorf("%d reports were given up at once", q)
	}
	w.ahead.Store(int64(2 * maxPartsWait))
	w.await("given up", func() bool { return w.count.Quarantined.Load() >= n })
	w.await("removed", func() bool { return len(w.stored("reported.plant-b.>")) == 1 })
	raw, err := w.hub.JS.Stream(t.Context(), streams.Quarantine)
	if err != nil {
		t.Fatal(err)
	}
	m, err := raw.GetLastMsgForSubject(t.Context(), "quarantine."+incomplete("p0").Subject)
	if err != nil || !strings.Contains(m.Header.Get(streams.HeaderReason), "incomplete: read part 0 of pods default/p0") {
		t.Errorf("set aside: %+v, %v", m, err)
	}
}

// A late part is waited for.
func TestLatePartsAreWaitedFor(t *testing.T) {
	t.Parallel()
	w := startFlooded(t, accepts)
	var late *nats.Msg
	for _, m := range largeReport(t, w) {
		if strings.HasSuffix(m.Subject, ".0") {
			late = m
			continue
		}
		w.send(m)
	}
	w.start()
	w.await("the missing part noticed", func() bool { return w.awaited("plant-b") == 1 })
	w.ahead.Store(int64(maxPartsWait) / 2)
	w.send(late)
	w.await("written", func() bool { return w.count.Accepted.Load() == 1 })
	w.await("dealt with", func() bool { return w.awaited("plant-b") == 0 && w.behind("plant-b") == 0 })
	if q := w.count.Quarantined.Load(); q != 0 {
		t.Errorf("%d reports are in quarantine", q)
	}
}

// largeReport returns a report about the pod default/large with its parts, in the order in
// which a site stores them.
func largeReport(t *testing.T, w *writing) []*nats.Msg {
	t.Helper()
	ref := streams.Ref{Node: "b1", Resource: "pods", Namespace: "default", Name: "large"}
	data, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"name": "large", "namespace": "default", "uid": "uid-large"},
		"status":   map[string]any{"phase": "Running", "message": strings.Repeat("x", 100<<10)},
	})
	if err != nil {
		t.Fatal(err)
	}
	nc := w.hub.Conn
	sub, err := nc.SubscribeSync(streams.ReportedSubject("plant-b", ref) + ".>")
	if err != nil {
		t.Fatal(err)
	}
	subject := streams.ReportedSubject("plant-b", ref)
	m := streams.Message{Ref: ref, Op: streams.OpPut, UID: "uid-large", Object: data}
	seq, err := streams.Put(t.Context(), w.hub.JS, subject, m)
	if err != nil {
		t.Fatal(err)
	}
	head, err := w.stream("plant-b").GetMsg(t.Context(), seq)
	if err != nil {
		t.Fatal(err)
	}
	parts, err := strconv.Atoi(head.Header.Get(streams.HeaderParts))
	if err != nil {
		t.Fatal(err)
	}
	var msgs []*nats.Msg
	for range parts {
		part, err := sub.NextMsg(5 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		msgs = append(msgs, part)
	}
	msgs = append(msgs, &nats.Msg{Subject: head.Subject, Header: head.Header, Data: head.Data})
	for _, m := range msgs {
		m.Reply = ""
		for k := range m.Header {
			if strings.HasPrefix(k, "Nats-") {
				delete(m.Header, k)
			}
		}
	}
	if err := w.stream("plant-b").Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	return msgs
}

// Unreadable messages are quarantined one after the other, for each site separately.
func TestUnreadableReportsHoldUpNobody(t *testing.T) {
	t.Parallel()
	const n = flood
	w := startFlooded(t, accepts)
	var msgs []*nats.Msg
	for i := range n {
		msgs = append(msgs, put(fmt.Sprintf("reported.plant-b.nonsense.%d", i), "{"))
	}
	w.send(msgs...)
	w.say("first")
	w.start()
	w.await("another site's report written", func() bool { return w.count.Accepted.Load() == 1 })
	if q := w.count.Quarantined.Load(); q > n/2 {
		t.Errorf("another site's report was written after %d messages had been set aside", q)
	}
	w.await("all set aside", func() bool { return w.count.Quarantined.Load() >= n })
	w.await("removed, but for the site's last", func() bool { return len(w.stored("reported.plant-b.>")) == 1 })
}

// Reports of one site that the API server does not accept for a long time occupy no place of
// other sites, and are still retried.
func TestRetriedReportsTakeNoPlace(t *testing.T) {
	t.Parallel()
	w := startFlooded(t, func(rw http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.Header.Get("Impersonate-User"), "b1") {
			statusError(rw, http.StatusInternalServerError, metav1.StatusReasonInternalError)
			return
		}
		accepts(rw, r)
	})
	for i := range flood {
		ref := streams.Ref{Node: "b1", Resource: "events", Namespace: "default", Name: fmt.Sprint("e", i)}
		w.send(put(streams.ReportedSubject("plant-b", ref), fmt.Sprintf(`{"metadata":{"name":%q}}`, ref.Name)))
	}
	w.start()
	w.await("the site's share", func() bool { return w.waiting("plant-b") == maxWaiting })
	w.say("first")
	w.await("another site's report written", func() bool { return w.count.Accepted.Load() == 1 })
	if n := w.waiting("plant-b"); n != maxWaiting {
		t.Errorf("%d reports wait, want %d", n, maxWaiting)
	}
	if n := w.behind("plant-b"); n != flood {
		t.Errorf("the next bridge would read %d messages, want all %d", n, flood)
	}
}

// Names that no object can have are rejected before a request is made.
func TestImpossibleNamesAreRefused(t *testing.T) {
	t.Parallel()
	w := startFlooded(t, accepts)
	w.start()
	for _, ref := range []streams.Ref{
		{Node: "b1\nX-Forged: yes", Resource: "nodes", Name: "b1\nX-Forged: yes"},
		{Node: "b1\x00", Resource: "nodes", Name: "b1\x00"},
		{Node: "b1", Resource: "events", Namespace: "default", Name: ".."},
		{Node: "b1", Resource: "events", Namespace: "default", Name: "a/b"},
		{Node: "b1", Resource: "events", Namespace: "a/b", Name: "e"},
	} {
		name, err := json.Marshal(ref.Name)
		if err != nil {
			t.Fatal(err)
		}
		before := w.count.Quarantined.Load()
		w.send(put(streams.ReportedSubject("plant-b", ref), `{"metadata":{"name":`+string(name)+`}}`))
		w.await(fmt.Sprintf("%q refused", ref), func() bool { return w.count.Quarantined.Load() == before+1 })
	}
	w.await("nothing waits", func() bool { return w.behind("plant-b") == 0 })
}

// A rejected message can exceed the hub's limit once the reason is added.
func TestLargestReportIsSetAside(t *testing.T) {
	t.Parallel()
	w := startFlooded(t, accepts)
	w.start()
	m := put("reported.plant-b.b1._.widgets.default.w", `{"metadata":{"name":"w"},"x":"`)
	m.Data = append(m.Data, strings.Repeat("x", int(w.hub.Conn.MaxPayload())-m.Size()-2)...)
	m.Data = append(m.Data, `"}`...)
	w.send(m)
	w.await("set aside", func() bool { return w.count.Quarantined.Load() == 1 })
	w.await("nothing waits", func() bool { return w.behind("plant-b") == 0 })
}

// Each part may be as large as the hub accepts: their total size is bounded.
func TestLargeReportsAreBounded(t *testing.T) {
	t.Parallel()
	w := startFlooded(t, accepts)
	w.start()
	body := []byte(`{"metadata":{"name":"large"},"status":{"message":"` + strings.Repeat("x", maxReportBytes) + `"}}`)
	head := put(streams.ReportedSubject("plant-b", streams.Ref{Node: "b1", Resource: "pods", Namespace: "default", Name: "large"}), "")
	sum := sha256.Sum256(body)
	head.Header.Set("Petiole-Part-Hash", hex.EncodeToString(sum[:]))
	parts := 0
	for data := range slices.Chunk(body, 900<<10) {
		part := nats.NewMsg(streams.PartSubject(head.Subject, parts))
		part.Header, part.Data = nats.Header{"Petiole-Part-Hash": head.Header["Petiole-Part-Hash"]}, data
		w.send(part)
		parts++
	}
	head.Header.Set(streams.HeaderParts, fmt.Sprint(parts))
	w.send(head)
	w.await("set aside", func() bool { return w.count.Quarantined.Load() == 1 })
	w.await("nothing waits", func() bool { return w.behind("plant-b") == 0 })
}

// Parts that belong to no report are removed; those of a report, and the last ones of a site,
// whose report may still arrive, are not.
func TestOrphanPartsAreRemoved(t *testing.T) {
	t.Parallel()
	const n = flood
	w := startFlooded(t, accepts)
	whole := largeReport(t, w)
	w.send(whole...)
	var orphans []*nats.Msg
	for i := range n {
		orphans = append(orphans, nats.NewMsg(streams.PartSubject(incomplete(fmt.Sprint("p", i)).Subject, 0)))
	}
	w.send(orphans...)
	w.send(put("reported.plant-b.b1._.pods.default.web.=part.x", ""))
	last := incomplete("last").Subject
	w.send(nats.NewMsg(streams.PartSubject(last, 0)), nats.NewMsg(streams.PartSubject(last, 1)))
	w.start()
	w.await("the large report written", func() bool { return w.count.Accepted.Load() == 1 })
	w.ahead.Store(int64(orphanWait))
	w.await("orphans removed", func() bool {
		w.ahead.Add(int64(10 * time.Millisecond))
		return len(w.stored("reported.plant-b.>")) == len(whole)+2
	})
	left := w.stored("reported.plant-b.>")
	for _, m := range append(whole, nats.NewMsg(streams.PartSubject(last, 0)), nats.NewMsg(streams.PartSubject(last, 1))) {
		if left[m.Subject] != 1 {
			t.Errorf("%s was removed", m.Subject)
		}
	}
	if n := w.count.Quarantined.Load(); n != 1 {
		t.Errorf("%d messages were set aside, want that which is no part of anything", n)
	}
	// A small report replaces the large one.
	w.send(put(whole[len(whole)-1].Subject, `{"metadata":{"name":"large","uid":"uid-large"}}`))
	w.send(put(streams.ReportedSubject("plant-b", streams.Ref{Node: "b1", Resource: "pods", Namespace: "default", Name: "other"}), `{"metadata":{"name":"other"}}`))
	w.ahead.Add(int64(2 * partsInterval))
	w.await("its parts removed", func() bool {
		// A check that began before the last reports were stored counts the next one's interval from now.
		w.ahead.Add(int64(time.Second))
		return len(w.stored("reported.plant-b.*.*.*.*.*.=part.*")) == 0
	})
}

// The next bridge starts where the former one had to stop, and does not stall either.
func TestRestartDoesNotBringTheStallBack(t *testing.T) {
	t.Parallel()
	w := startFlooded(t, accepts)
	for i := range flood {
		w.send(incomplete(fmt.Sprint("p", i)))
	}
	first, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- w.reader.run(first) }()
	w.await("put off", func() bool { return w.count.Deferred.Load() > 0 })
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	next := w.successor()
	if err := next.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	next.start()
	next.say("first")
	next.await("another site's report written", func() bool { return next.count.Accepted.Load() == 1 })
	next.await("all read that may wait", func() bool { return next.awaited("plant-b") == maxWaiting })
	next.ahead.Store(int64(2 * maxPartsWait))
	next.await("all given up", func() bool { return next.count.Quarantined.Load() >= flood && next.behind("plant-b") == 0 })
}
