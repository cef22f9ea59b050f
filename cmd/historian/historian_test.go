package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestEachSampleOnce has records of two sites in PostgreSQL once each, although a gateway stored some
// twice, the historian died between commit and acknowledgement, and the database failed; and rows for
// what is missing and for what cannot be read.
func TestEachSampleOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.stream("plant-a", 0), w.stream("plant-b", 0)
	stop := w.start(w.db)
	for n := range 300 {
		a.sample(uint64(n + 1))
		b.sample(uint64(n + 1))
	}
	w.await("all are stored", "SELECT count(*) FROM samples", 600)
	stop()

	a.sample(300) // again, as after a lost acknowledgement
	a.publish("gap", streams.Gap{Stream: streams.SiteTelemetry, Created: 7, From: 301, To: 309, Reason: streams.GapLimit, Time: time.Unix(1, 0)})
	a.publish("audit", devices.Audit{Device: a.device(), RecordNumber: devices.RecordNumber{Epoch: 1, Sequence: 310}, Property: "power", Value: "on", Time: 5})
	a.raw("telemetry.plant-a.sample.default.boiler", "not a record")
	dying := &dyingStore{store: w.db}
	stop = w.start(dying)
	for n := range 300 {
		a.sample(uint64(n + 311))
	}
	w.await("all are stored", "SELECT count(*) FROM samples", 900)
	stop()
	if dying.deaths.Load() == 0 {
		t.Error("the store never failed after its commit")
	}

	stop = w.start(w.db)
	a.sample(611)
	w.await("it goes on", "SELECT count(*) FROM samples", 901)
	w.await("duplicates", "SELECT count(*) FROM samples WHERE site = 'plant-a'", 601)
	w.await("numbers", "SELECT count(*) FROM samples WHERE number = (sequence::float8) / 2 AND value = to_jsonb(number) AND quality = 'good'", 901)
	w.await("the gateway's gap", "SELECT count(*) FROM gaps WHERE site = 'plant-a' AND stream = 'SITE_TELEMETRY' AND first = 301 AND last = 309 AND reason = 'limit'", 1)
	w.await("no other gap", "SELECT count(*) FROM gaps", 1)
	w.await("the write", "SELECT count(*) FROM writes WHERE record->>'property' = 'power' AND sequence = 310", 1)
	w.await("the unreadable message", "SELECT count(*) FROM unreadable WHERE data = 'not a record' AND problem LIKE 'decode samples: %'", 1)
	w.await("positions", "SELECT count(*) FROM positions", 2)
	stop()
}

// TestRecordsThatTheHubRemoved has a stream that removed records before they were read, while the
// historian was away and before it was there at all: gaps say which.
func TestRecordsThatTheHubRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.stream("plant-a", 10)
	for n := range 25 {
		a.sample(uint64(n + 1))
	}
	stop := w.start(w.db)
	w.await("what is left", "SELECT count(*) FROM samples", 10)
	w.await("what was there before", "SELECT count(*) FROM gaps WHERE stream = 'TELEMETRY_plant-a' AND first = 1 AND last = 15 AND reason = 'hubLimit'", 1)
	stop()
	for n := range 30 {
		a.sample(uint64(n + 26))
	}
	stop = w.start(w.db)
	w.await("what is left", "SELECT count(*) FROM samples", 20)
	w.await("what it missed", "SELECT count(*) FROM gaps WHERE first = 26 AND last = 45 AND reason = 'hubLimit'", 1)
	w.await("no more", "SELECT count(*) FROM gaps", 2)
	stop()
}

// TestRecordsThatTheDatabaseRefuses has records of a faulty or a stolen gateway with values that
// PostgreSQL does not take, and with the keys of another site: what was sent beside them is stored, also
// of its own site, and they are kept as unreadable.
func TestRecordsThatTheDatabaseRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.stream("plant-a", 0), w.stream("plant-b", 0)
	sample := func(sequence uint64, property, value string) string {
		return fmt.Sprintf(`{"device":{"uid":"uid-plant-a"},"epoch":1,"sequence":%d,"samples":[{"property":"fine","value":1,"time":1},{"property":%s,"value":%s,"time":1}]}`, sequence, property, value)
	}
	refused := []string{
		sample(1, `"nul\u0000"`, `1`), sample(2, `"p"`, `"nul\u0000"`), sample(3, `"p"`, `1e400000`), sample(4, `"p"`, "\"\xff\""), sample(5, `"p"`, `1e-40000`),
		sample(1<<63, `"p"`, `1`),
	}
	for n, data := range refused {
		a.sample(uint64(n + 10))
		b.sample(uint64(n + 10))
		b.raw("telemetry.plant-b.sample.default.boiler", data)
	}
	b.raw("telemetry.plant-b.audit.default.boiler", `{"device":{"uid":"uid-plant-a"},"epoch":1,"sequence":1,"property":"nul\u0000"}`)
	b.raw("telemetry.plant-b.gap.default.boiler", `{"stream":"x","from":1,"to":18446744073709551615}`)
	b.raw("telemetry.plant-b.nul\x00.default.boiler", `{}`)
	b.raw("telemetry.plant-b.sample.default.boiler", sample(400, `"temperature"`, `1`))
	a.raw("telemetry.plant-a.sample.default.boiler", sample(400, `"temperature"`, `2`))
	stop := w.start(w.db)
	w.await("all of plant-a", "SELECT count(*) FROM samples WHERE site = 'plant-a'", len(refused)+2)
	w.await("what is good of plant-b", "SELECT count(*) FROM samples WHERE site = 'plant-b'", len(refused)+2)
	w.await("the rest", "SELECT count(*) FROM unreadable WHERE stream = 'TELEMETRY_plant-b'", len(refused)+3)
	w.await("nothing else", "SELECT count(*) FROM unreadable", len(refused)+3)
	w.await("no gap", "SELECT count(*) FROM gaps", 0)
	w.await("the same key of two sites", "SELECT count(*) FROM samples WHERE sequence = 400 AND property = 'temperature' AND number = CASE site WHEN 'plant-a' THEN 2 ELSE 1 END", 2)
	b.sample(500)
	w.await("it goes on", "SELECT count(*) FROM samples WHERE site = 'plant-b' AND sequence = 500", 1)
	stop()
}

// TestTwoHistorians has two of one name and one database: no record is stored twice or missing.
func TestTwoHistorians(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.stream("plant-a", 0)
	first, second := w.start(w.db), w.start(w.db)
	for n := range 500 {
		a.sample(uint64(n + 1))
	}
	w.await("all are stored", "SELECT count(*) FROM samples", 500)
	w.await("none is missing", "SELECT count(*) FROM gaps", 0)
	first()
	second()
}

// dyingStore fails after each second commit, as if the program had ended there.
type dyingStore struct {
	store
	calls, deaths atomic.Int64
}

func (d *dyingStore) Store(ctx context.Context, b batch) error {
	if err := d.store.Store(ctx, b); err != nil || d.calls.Add(1)%2 == 0 {
		return err
	}
	d.deaths.Add(1)
	return errors.New("the connection to the database was lost after the commit")
}

// world is a hub and a database.
type world struct {
	t  *testing.T
	js jetstream.JetStream
	db database
}

func newWorld(t *testing.T) *world {
	t.Helper()
	nc := natstest.StartHub(t).Connect(t, "bridge")
	js, err := jetstream.New(nc)
	must(t, err)
	pool, err := pgxpool.New(t.Context(), startPostgres(t))
	must(t, err)
	t.Cleanup(pool.Close)
	w := &world{t: t, js: js, db: database{pool}}
	polltest.NoError(t, "the database accepts connections", w.db.createTables)
	return w
}

// start runs a historian until the returned function is called.
func (w *world) start(s store) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	h := &historian{js: w.js, store: s, consumer: "historian", lookEvery: 100 * time.Millisecond, log: zaptest.NewLogger(w.t)}
	done := make(chan error, 1)
	go func() { done <- h.run(ctx) }()
	return func() {
		w.t.Helper()
		cancel()
		must(w.t, <-done)
	}
}

// await waits until a query of one number gives it.
func (w *world) await(what, query string, want int) {
	w.t.Helper()
	polltest.NoError(w.t, what, func(ctx context.Context) error {
		var n int
		if err := w.db.pool.QueryRow(ctx, query).Scan(&n); err != nil {
			return err
		}
		if n != want {
			return fmt.Errorf("%s: %d, want %d", query, n, want)
		}
		return nil
	})
}

// stream is the telemetry of a site at the hub.
type stream struct {
	*world
	site string
}

func (w *world) stream(site string, maxMsgs int64) stream {
	w.t.Helper()
	for _, c := range streams.SiteStreams(site, streams.SiteLimits{}) {
		if c.Name == streams.Telemetry(site) && maxMsgs > 0 {
			c.MaxMsgs = maxMsgs
		}
		_, err := w.js.CreateStream(w.t.Context(), c)
		must(w.t, err)
	}
	return stream{w, site}
}

func (s stream) device() devices.Ref {
	return devices.Ref{Namespace: "default", Name: "boiler", UID: "uid-" + s.site}
}

func (s stream) sample(sequence uint64) {
	s.t.Helper()
	s.publish("sample", devices.Samples{Device: s.device(), RecordNumber: devices.RecordNumber{Epoch: 1, Sequence: sequence}, Samples: []devices.Sample{
		{Property: "temperature", Value: devices.Float(float64(sequence) / 2), Quality: devices.Good, Time: 1000 + int64(sequence)},
	}})
}

func (s stream) publish(kind string, record any) {
	s.t.Helper()
	data, err := json.Marshal(record)
	must(s.t, err)
	s.raw(streams.TelemetrySubject(s.site, kind, "default", "boiler"), string(data))
}

func (s stream) raw(subject, data string) {
	s.t.Helper()
	_, err := s.js.PublishMsg(s.t.Context(), &nats.Msg{Subject: subject, Data: []byte(data)})
	must(s.t, err)
}

// startPostgres runs Debian's PostgreSQL on a socket in a temporary folder, as the user that the
// package creates: it refuses to run as root.
func startPostgres(t *testing.T) (connection string) {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	must(t, err)
	if len(found) == 0 {
		t.Fatal("PostgreSQL is needed: apt-get install postgresql")
	}
	bin := filepath.Dir(found[len(found)-1])
	u, err := user.Lookup("postgres")
	must(t, err)
	uid, err := strconv.Atoi(u.Uid)
	must(t, err)
	gid, err := strconv.Atoi(u.Gid)
	must(t, err)
	dir, err := os.MkdirTemp("", "pg") // a socket's path is at most 107 bytes long
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, os.Chown(dir, uid, gid))
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		return cmd
	}
	data := filepath.Join(dir, "data")
	if out, err := command("initdb", "-D", data, "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
	var log strings.Builder
	server := command("postgres", "-D", data, "-k", dir, "-h", "")
	server.Stderr = &log
	must(t, server.Start())
	t.Cleanup(func() {
		must(t, server.Process.Signal(syscall.SIGINT)) // fast shutdown
		if err := server.Wait(); err != nil {
			t.Errorf("postgres: %v: %s", err, log.String())
		}
	})
	return "host=" + dir + " user=postgres dbname=postgres"
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
