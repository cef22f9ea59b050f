package table

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a hub with streams row_<site>, and a table that follows them.
type fixture struct {
	t   *testing.T
	hub *natstest.Hub
	js  jetstream.JetStream
	*Table

	mu      sync.Mutex
	changed map[string]int
}

func start(t *testing.T, interval time.Duration, sites ...string) *fixture {
	t.Helper()
	f := &fixture{t: t, hub: natstest.StartHub(t), changed: map[string]int{}}
	nc := f.hub.Connect(t, "bridge")
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	f.js = js
	for _, s := range sites {
		f.stream(s, true)
	}
	f.Table = New(Config{
		Conn: nc, Domain: "hub", Name: name, Subjects: "row.>", Republished: "stored", Log: zap.NewNop(), interval: interval,
		Site: func(subject string) (string, error) {
			tokens := strings.Split(subject, ".")
			if len(tokens) < 3 || tokens[0] != "row" {
				return "", fmt.Errorf("subject %q", subject)
			}
			return tokens[1], nil
		},
		Changed: func(site string) { f.mu.Lock(); defer f.mu.Unlock(); f.changed[site]++ },
	})
	return f
}

func name(site string) string { return "ROW_" + site }

// stream creates or updates the stream of a site, which republishes or not.
func (f *fixture) stream(site string, republish bool) {
	f.t.Helper()
	cfg := jetstream.StreamConfig{Name: name(site), Subjects: []string{"row." + site + ".>"}, MaxMsgsPerSubject: 1, AllowDirect: true}
	if republish {
		cfg.RePublish = &jetstream.RePublish{Source: cfg.Subjects[0], Destination: "stored." + cfg.Subjects[0], HeadersOnly: true}
	}
	if _, err := f.js.CreateOrUpdateStream(f.t.Context(), cfg); err != nil {
		f.t.Fatal(err)
	}
}

// put stores a message with a header.
func (f *fixture) put(site, row, data string, header ...string) uint64 {
	f.t.Helper()
	m := nats.NewMsg("row." + site + "." + row)
	m.Data = []byte(data)
	for i := 0; i+1 < len(header); i += 2 {
		m.Header.Set(header[i], header[i+1])
	}
	ack, err := f.js.PublishMsg(f.t.Context(), m)
	if err != nil {
		f.t.Fatal(err)
	}
	return ack.Sequence
}

// follow runs the table until the test ends, and returns when it follows.
func (f *fixture) follow() {
	f.t.Helper()
	ctx, done := f.t.Context(), make(chan struct{})
	go func() {
		defer close(done)
		if err := f.Run(ctx); err != nil {
			f.t.Error(err)
		}
	}()
	f.t.Cleanup(func() { <-done })
	f.stream("first", true)
	polltest.Eventually(f.t, "a notification", func() bool {
		f.put("first", "x", "")
		return f.Tail("first").Last > 0
	})
}

func (f *fixture) changes(site string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed[site]
}

// rows reads all rows of a site from a sequence on, as "row=data".
func (f *fixture) rows(site string, from uint64, n int) string {
	f.t.Helper()
	var rows []string
	for {
		msgs, err := f.Read(f.t.Context(), site, from, n)
		if err != nil {
			f.t.Fatal(err)
		}
		if len(msgs) == 0 {
			return strings.Join(rows, " ")
		}
		for _, m := range msgs {
			rows = append(rows, strings.TrimPrefix(m.Subject, "row."+site+".")+"="+string(m.Data))
			from = m.Seq + 1
		}
	}
}

// The newest message of each row is read, in order, from any sequence on, with the headers that
// were published and no others.
func TestRead(t *testing.T) {
	t.Parallel()
	f := start(t, time.Hour, "a")
	f.put("a", "x", "1")
	f.put("a", "y", "", "Kind", "k", "Nats-Subject", "row.b.z", "Nats-Sequence", "99", "Status", "503")
	seq := f.put("a", "x", "3")
	for _, n := range []int{1, 2, 10} {
		if got := f.rows("a", 0, n); got != "y= x=3" {
			t.Errorf("by %d: %s", n, got)
		}
		if got := f.rows("a", seq, n); got != "x=3" {
			t.Errorf("by %d from %d: %s", n, seq, got)
		}
	}
	msgs, err := f.Read(t.Context(), "a", 0, 1)
	if err != nil || msgs[0].Seq != 2 || msgs[0].Header.Get("Kind") != "k" || time.Since(msgs[0].Time).Abs() > time.Hour {
		t.Fatalf("%+v, %v", msgs, err)
	}
	if h := msgs[0].Header; h.Get("Nats-Sequence") != "99" || len(h["Nats-Sequence"]) != 1 || h.Get("Nats-Time-Stamp") != "" {
		t.Errorf("headers %v", h)
	}
	if _, err := f.Read(t.Context(), "none", 0, 1); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("a stream that does not exist: %v", err)
	}
}

// A read ends after a megabyte, however many messages it may return.
func TestReadIsBounded(t *testing.T) {
	t.Parallel()
	f := start(t, time.Hour, "a")
	for i := range 6 {
		f.put("a", fmt.Sprint("r", i), strings.Repeat("x", 500<<10))
	}
	msgs, err := f.Read(t.Context(), "a", 0, 100)
	if err != nil || len(msgs) != 3 {
		t.Errorf("%d messages in one read, want 3: %v", len(msgs), err)
	}
	if got := strings.Count(f.rows("a", 0, 100), "="); got != 6 {
		t.Errorf("%d messages in all", got)
	}
}

// Notifications that were lost are made up for by the next one.
func TestGapIsRead(t *testing.T) {
	t.Parallel()
	f := start(t, time.Hour, "a")
	f.follow()
	f.put("a", "x", "1")
	polltest.Eventually(t, "a change", func() bool { return f.Tail("a").Last == 1 })
	f.stream("a", false)
	f.put("a", "y", "2")
	f.put("a", "z", "3")
	f.stream("a", true)
	f.put("a", "x", "4")
	polltest.Eventually(t, "a change", func() bool { return f.Tail("a").Last == 4 })
	if got := f.rows("a", 2, 10); got != "y=2 z=3 x=4" {
		t.Errorf("after the gap: %s", got)
	}
}

// What was lost last is found by the list.
func TestLostTailIsFound(t *testing.T) {
	t.Parallel()
	f := start(t, time.Second, "a", "b")
	f.follow()
	f.put("a", "x", "1")
	polltest.Eventually(t, "a change", func() bool { return f.Tail("a").Last == 1 })
	f.stream("a", false)
	before := f.changes("a")
	f.put("a", "y", "2")
	polltest.Eventually(t, "the list shows it", func() bool { return f.Tail("a").Last == 2 && f.changes("a") > before })
	if got := f.rows("a", 2, 10); got != "y=2" {
		t.Errorf("the tail is %s", got)
	}
	f.put("b", "x", "1") // another one goes on
	polltest.Eventually(t, "a change of another site", func() bool { return f.Tail("b").Last == 1 })
}

// After a reconnect the streams are listed at once.
func TestListAfterReconnect(t *testing.T) {
	t.Parallel()
	f := start(t, time.Hour, "a")
	f.follow()
	f.stream("a", false)
	f.put("a", "x", "1")
	if f.Tail("a").Last != 0 {
		t.Fatal("it was republished")
	}
	if err := f.cfg.Conn.ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	polltest.Eventually(t, "the list shows it", func() bool { return f.Tail("a").Last == 1 })
}

// A stream that was created again is another one.
func TestGenerations(t *testing.T) {
	t.Parallel()
	f := start(t, time.Hour, "a")
	f.follow()
	again := func() {
		t.Helper()
		if err := f.js.DeleteStream(t.Context(), name("a")); err != nil {
			t.Fatal(err)
		}
		f.stream("a", true)
	}
	for range 3 {
		f.put("a", "x", "1")
	}
	polltest.Eventually(t, "changes", func() bool { return f.Tail("a").Last == 3 })
	was := f.Tail("a").Generation
	again()
	f.put("a", "x", "1")
	polltest.Eventually(t, "noticed by the sequence", func() bool { return f.Tail("a").Generation == was+1 && f.Tail("a").Last == 1 })
	if err := f.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	was = f.Tail("a").Generation
	again()
	if err := f.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := f.Tail("a"); now.Generation != was+1 || now.Last != 0 {
		t.Errorf("by the list: %+v after generation %d", now, was)
	}
	f.Forget("a")
	if now := f.Tail("a"); now.Last != 0 {
		t.Errorf("forgotten: %+v", now)
	}
}

// A flood of one site, or headers that it forges, change nothing for another.
func TestSitesAreApart(t *testing.T) {
	t.Parallel()
	f := start(t, time.Hour, "a", "b")
	f.follow()
	f.put("b", "x", "1")
	polltest.Eventually(t, "a change", func() bool { return f.Tail("b").Last == 1 })
	f.put("a", "x", "1", "Nats-Sequence", "7", "Nats-Subject", "row.b.x", "Nats-Stream", name("b"))
	polltest.Eventually(t, "a change", func() bool { return f.Tail("a").Last == 1 })
	for i := range 5000 {
		if err := f.cfg.Conn.Publish(fmt.Sprint("row.a.r", i%10), nil); err != nil {
			t.Fatal(err)
		}
	}
	polltest.Eventually(t, "the flood", func() bool { return f.Tail("a").Last == 5001 })
	if f.Tail("b").Last != 1 || f.rows("b", 0, 10) != "x=1" {
		t.Errorf("the other site: %+v", f.Tail("b"))
	}
}

// A replica that lags answers with less than the leader has: the leader is asked.
func TestReplicaThatLags(t *testing.T) {
	t.Parallel()
	f := start(t, time.Hour, "a")
	f.put("a", "x", "1")
	f.put("a", "y", "2")
	if err := f.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	// In this domain direct get is answered by a replica that has nothing.
	nc := f.cfg.Conn
	for subject, answer := range map[string]nats.MsgHandler{
		"$JS.lag.API.DIRECT.GET.>": func(m *nats.Msg) {
			_ = m.RespondMsg(&nats.Msg{Header: nats.Header{"Status": {"404"}}}) // the reader would time out
		},
		"$JS.lag.API.STREAM.MSG.GET.>": func(m *nats.Msg) {
			_ = nc.PublishRequest(strings.Replace(m.Subject, "lag", "hub", 1), m.Reply, m.Data) // the reader would time out
		},
	} {
		sub, err := nc.Subscribe(subject, answer)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sub.Unsubscribe() }()
	}
	f.cfg.Domain = "lag"
	if got := f.rows("a", 0, 10); got != "x=1 y=2" {
		t.Errorf("read are %s", got)
	}
	last, err := LastMessage(t.Context(), nc, "hub", name("a"), "row.a.x")
	if err != nil || last.Seq != 1 {
		t.Errorf("the last message is %+v, %v", last, err)
	}
	if none, err := LastMessage(t.Context(), nc, "hub", name("a"), "row.a.z"); none != nil || err != nil {
		t.Errorf("of a row that does not exist: %+v, %v", none, err)
	}
}
