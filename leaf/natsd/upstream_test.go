package natsd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/porttest"
	"github.com/petiole-io/petiole/streams"
)

// The tests of this file show the bugs of nats-server that docs/upstream.md reports, on the
// server alone. One that fails shows that nats-server has fixed the bug: the section of
// docs/upstream.md lists what can be removed then.

// startRaw starts a nats-server without what the leaf does about it.
func startRaw(t *testing.T, opts *server.Options) *server.Server {
	t.Helper()
	opts.NoSigs, opts.NoLog = true, true
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { stopRaw(s) })
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("nats-server is not ready after 30 s")
	}
	return s
}

func stopRaw(s *server.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

// inStore returns options of a server that stores in dir and has no listener.
func inStore(dir string) *server.Options {
	return &server.Options{DontListen: true, JetStream: true, StoreDir: dir, SyncAlways: true, JetStreamMaxStore: 1 << 40}
}

// fromConfig returns the options of a configuration that is written to dir.
func fromConfig(t *testing.T, dir, conf string) *server.Options {
	t.Helper()
	path := filepath.Join(dir, "nats.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	opts, err := server.ProcessConfigFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return opts
}

// jetStreamOf connects to a server in process.
func jetStreamOf(t *testing.T, s *server.Server, opts ...nats.Option) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect("", append(opts, nats.InProcessServer(s))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

// newTable creates a stream S of one message per subject.
func newTable(t *testing.T, js jetstream.JetStream) jetstream.Stream {
	t.Helper()
	s, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, MaxMsgsPerSubject: 1})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func publish(t *testing.T, js jetstream.JetStream, subject, text string) {
	t.Helper()
	if _, err := js.Publish(t.Context(), subject, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// smallDisk mounts a disk of some megabytes and returns its folder.
func smallDisk(t *testing.T, megabytes int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", megabytes)); err != nil {
		t.Fatalf("mount a small disk (needs root): %v", err)
	}
	t.Cleanup(func() {
		polltest.NoError(t, "unmount "+dir, func(context.Context) error { return syscall.Unmount(dir, syscall.MNT_DETACH) })
	})
	return dir
}

// fill fills a disk and returns how to empty it again.
func fill(t *testing.T, dir string) func() {
	t.Helper()
	path := filepath.Join(dir, "somebody-elses")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size >= 512; size /= 2 {
		for chunk := make([]byte, size); err == nil; {
			_, err = f.Write(chunk)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		err = nil
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestUpstreamBringsASupersededMessageBack: docs/upstream.md, 7.
func TestUpstreamBringsASupersededMessageBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, js := jetStreamOf(t, startRaw(t, inStore(dir)))
	s := newTable(t, js)
	publish(t, js, "s.first", "")
	publish(t, js, "s.gone", "old")
	publish(t, js, "s.gone", "new")
	if err := s.DeleteMsg(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	publish(t, js, "s.other", "")
	if _, err := s.GetLastMsgForSubject(t.Context(), "s.gone"); !errors.Is(err, jetstream.ErrMsgNotFound) {
		t.Fatalf("before the kill: %v", err)
	}
	killed := t.TempDir() // what the disk holds when the process is killed now
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	_, js = jetStreamOf(t, startRaw(t, inStore(killed)))
	s, err := js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	if m, err := s.GetLastMsgForSubject(t.Context(), "s.gone"); err != nil || string(m.Data) != "old" {
		t.Errorf("a superseded message no longer comes back: %v, %v", m, err)
	}
}

// TestUpstreamTakesARemovalForAnAcknowledgement: docs/upstream.md, 8.
func TestUpstreamTakesARemovalForAnAcknowledgement(t *testing.T) {
	t.Parallel()
	nc, js := jetStreamOf(t, startRaw(t, inStore(t.TempDir())))
	newTable(t, js)
	for _, name := range []string{"a", "b", "c"} {
		publish(t, js, "s."+name, "1")
	}
	got := make(chan *nats.Msg, 16)
	sub, err := nc.ChanSubscribe("delivered", got)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	c, err := js.CreatePushConsumer(t.Context(), "S", jetstream.ConsumerConfig{Durable: "c", DeliverSubject: "delivered", AckPolicy: jetstream.AckAllPolicy})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		<-got
	}
	publish(t, js, "s.c", "2") // supersedes the third
	<-got
	var floor uint64
	for start := time.Now(); floor == 0 && time.Since(start) < 10*time.Second; {
		info, err := c.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		floor = info.AckFloor.Stream
	}
	if floor < 3 {
		t.Errorf("the acknowledgement floor is %d: a removal is no longer taken for an acknowledgement of what was delivered before", floor)
	}
}

// TestUpstreamDeliversToADisconnectedLeaf: docs/upstream.md, 9.
func TestUpstreamDeliversToADisconnectedLeaf(t *testing.T) {
	t.Parallel()
	hub := natstest.StartHub(t, "plant-a")
	_, js := jetStreamOf(t, hub.Server, nats.UserCredentials(hub.BridgeCreds()))
	if err := streams.Ensure(t.Context(), js, streams.HubStreams(streams.HubLimits{})); err != nil {
		t.Fatal(err)
	}
	c, err := js.CreateConsumer(t.Context(), streams.Desired, streams.SiteConsumer("plant-a"))
	if err != nil {
		t.Fatal(err)
	}
	opts, err := server.ProcessConfigFile(natstest.LeafConf(t, "plant-a", hub.LeafAddr()))
	if err != nil {
		t.Fatal(err)
	}
	leaf := startRaw(t, opts)
	nc, _ := jetStreamOf(t, leaf)
	polltest.Eventually(t, "connection to the hub", func() bool { return hub.Server.NumLeafNodes() == 1 })
	polltest.Eventually(t, "open request", func() bool {
		stop := natstest.Pull(t, nc, "plant-a", func(*nats.Msg) {})
		info, err := c.Info(t.Context())
		return err == nil && info.NumWaiting > 0 || stop() != nil
	})
	nc.Close()
	stopRaw(leaf)
	polltest.Eventually(t, "no connection to the hub", func() bool { return hub.Server.NumLeafNodes() == 0 })
	publish(t, js, "desired.plant-a.n._.configmaps.default.x", "{}")
	for start := time.Now(); time.Since(start) < 5*time.Second; time.Sleep(10 * time.Millisecond) {
		info, err := c.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if info.NumAckPending == 1 {
			return
		}
	}
	t.Error("nothing is delivered: a request of a leaf that is disconnected is no longer answered")
}

// TestUpstreamStopsDialing: docs/upstream.md, 10. A hub that resets each connection after its
// INFO is a network that breaks at that moment.
func TestUpstreamStopsDialing(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var accepted atomic.Int64
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			_, _ = conn.Write([]byte(`INFO {"server_id":"HUB","server_name":"hub","version":"2.15.2","proto":1,"headers":true,"max_payload":1048576,` +
				`"compression":"s2_fast","client_id":1,"leafnode_urls":["127.0.0.1:1"],"info_on_connect":true}` + "\r\n"))
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}
	}()
	opts, err := server.ProcessConfigFile(natstest.LeafConf(t, "plant-a", l.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	startRaw(t, opts)
	last, since := int64(0), time.Now()
	for start := time.Now(); time.Since(start) < time.Minute; time.Sleep(100 * time.Millisecond) {
		n := accepted.Load()
		if n != last {
			last, since = n, time.Now()
		}
		if n > 0 && time.Since(since) > 5*time.Second {
			return // 25 times the longest pause
		}
	}
	t.Errorf("%d connections in a minute: nats-server no longer stops dialing", accepted.Load())
}

// TestUpstreamFreezesWithoutAnAnswer: docs/upstream.md, 11.
func TestUpstreamFreezesWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, 8)
	s := startRaw(t, inStore(dir))
	nc, js := jetStreamOf(t, s)
	newTable(t, js)
	publish(t, js, "s.a", "1")
	empty := fill(t, dir)
	body := make([]byte, 64<<10)
	if m, err := nc.Request("s.a", body, time.Second); !errors.Is(err, nats.ErrTimeout) {
		t.Errorf("a message that cannot be written is answered: %s %v", m.Data, err)
	}
	empty()
	if m, err := nc.Request("s.a", body, time.Second); err == nil && strings.Contains(string(m.Data), `"seq"`) {
		t.Errorf("the stream stores again without a restart: %s", m.Data)
	}
	nc.Close()
	stopRaw(s)
	_, js = jetStreamOf(t, startRaw(t, inStore(dir)))
	publish(t, js, "s.a", "2")
}

// TestUpstreamLeavesTheFlusherOfABatch: docs/upstream.md, 15.
func TestUpstreamLeavesTheFlusherOfABatch(t *testing.T) {
	dir := smallDisk(t, 8)
	s := startRaw(t, inStore(dir))
	nc, js := jetStreamOf(t, s)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, AllowAtomicPublish: true}); err != nil {
		t.Fatal(err)
	}
	fill(t, dir)
	var batch []*nats.Msg
	for i := range 10 {
		batch = append(batch, &nats.Msg{Subject: fmt.Sprintf("s.%d", i), Header: nats.Header{}, Data: make([]byte, 64<<10)})
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := streams.Commit(ctx, nc, batch); err == nil {
		t.Fatal("the batch is stored")
	}
	nc.Close()
	stopRaw(s)
	var stacks bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&stacks, 1); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(stacks.String(), "msgBlock).flushLoop") {
		t.Error("a server that has stopped no longer leaves the flusher of a batch that it could not store")
	}
}

// TestUpstreamStaysFull: docs/upstream.md, 12.
func TestUpstreamStaysFull(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, 64)
	empty := fill(t, dir)
	opts := inStore(dir)
	opts.JetStreamMaxStore = 0
	_, js := jetStreamOf(t, startRaw(t, opts))
	empty()
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	if err == nil {
		_, err = js.Publish(t.Context(), "s.a", make([]byte, 512<<10))
	}
	var refused *jetstream.APIError
	if !errors.As(err, &refused) {
		t.Errorf("with 64 MB free: %v: a server that was started on a full disk no longer stays full", err)
	}
}

// TestUpstreamIsUnhealthyWhileAStreamIsCreated: docs/upstream.md, 13.
func TestUpstreamIsUnhealthyWhileAStreamIsCreated(t *testing.T) {
	s := startRaw(t, inStore(t.TempDir()))
	_, js := jetStreamOf(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	created := make(chan error, 1)
	go func() {
		var err error
		for i := 0; err == nil && ctx.Err() == nil; i++ {
			name := fmt.Sprintf("S%d", i)
			_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{name}})
		}
		created <- err
	}()
	defer func() {
		cancel()
		if err := <-created; err != nil {
			t.Error(err)
		}
	}()
	for ctx.Err() == nil {
		if why := s.Healthz(nil).Error; strings.Contains(why, "could not be recovered") {
			return
		}
	}
	t.Error("a server whose stream is being created is no longer unhealthy")
}

// TestUpstreamForgetsAConsumerAtEachStart: docs/upstream.md, 14.
func TestUpstreamForgetsAConsumerAtEachStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startRaw(t, inStore(dir))
	_, js := jetStreamOf(t, s)
	newTable(t, js)
	cfg := jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy}
	if _, err := js.CreateConsumer(t.Context(), "S", cfg); err != nil {
		t.Fatal(err)
	}
	stopRaw(s)
	meta := filepath.Join(StreamDir{server.DEFAULT_GLOBAL_ACCOUNT, "S"}.in(filepath.Join(dir, server.JetStreamStoreDir)), consumersDir, "c", server.JetStreamMetaFile)
	if err := os.WriteFile(meta, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s = startRaw(t, inStore(dir))
		_, js = jetStreamOf(t, s)
		if why := s.Healthz(nil).Error; why != "" {
			t.Errorf("healthz reports the lost consumer: %s", why)
		}
		if _, err := js.Consumer(t.Context(), "S", "c"); !errors.Is(err, jetstream.ErrConsumerNotFound) {
			t.Errorf("a consumer that was created on a damaged file is no longer lost: %v", err)
		}
		if _, err := js.CreateConsumer(t.Context(), "S", cfg); err != nil {
			t.Fatal(err)
		}
		stopRaw(s)
	}
}

// TestUpstreamKeepsARevokedLeaf: docs/upstream.md, 16.
func TestUpstreamKeepsARevokedLeaf(t *testing.T) {
	t.Parallel()
	dir, addr := t.TempDir(), fmt.Sprintf("127.0.0.1:%d", porttest.Port(t))
	const conf = `server_name: hub, listen: "127.0.0.1:-1", leafnodes { listen: %q }, accounts { A { users: [ { user: other, password: x }%s ] } }`
	hub := startRaw(t, fromConfig(t, dir, fmt.Sprintf(conf, addr, ", { user: plant-a, password: secret }")))
	startRaw(t, withPassword(t, addr))
	polltest.Eventually(t, "connection to the hub", func() bool { return hub.NumLeafNodes() == 1 })
	if err := hub.ReloadOptions(fromConfig(t, dir, fmt.Sprintf(conf, addr, ""))); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	if hub.NumLeafNodes() != 1 {
		t.Error("a reload closes the connection of a leaf whose user is removed")
	}
}

// withPassword returns the options of a leaf of plant-a at a hub whose users are in its configuration.
func withPassword(t *testing.T, addr string) *server.Options {
	t.Helper()
	opts, err := server.ProcessConfigFile(natstest.LeafConf(t, "plant-a", addr))
	if err != nil {
		t.Fatal(err)
	}
	remote := opts.LeafNode.Remotes[0]
	remote.Credentials, remote.URLs[0].User = "", url.UserPassword("plant-a", "secret")
	return opts
}

// TestUpstreamLetsALeafAcknowledgeForOthers: docs/upstream.md, 17. The leaf speaks the
// protocol itself, as a gateway whose software was replaced.
func TestUpstreamLetsALeafAcknowledgeForOthers(t *testing.T) {
	t.Parallel()
	addr := fmt.Sprintf("127.0.0.1:%d", porttest.Port(t))
	hub := startRaw(t, fromConfig(t, t.TempDir(), fmt.Sprintf(`
server_name: hub, listen: "127.0.0.1:-1", leafnodes { listen: %q, compression: off }
jetstream { domain: hub, store_dir: %q }
accounts { A { jetstream: enabled, users: [
  { user: bridge, password: secret }
  { user: plant-b, password: secret, permissions { publish: "b.>", subscribe: "b.>" } }
] } }`, addr, t.TempDir())))
	_, js := jetStreamOf(t, hub, nats.UserInfo("bridge", "secret"))
	newTable(t, js)
	publish(t, js, "s.a", "1")
	c, err := js.CreateConsumer(t.Context(), "S", jetstream.ConsumerConfig{Durable: "plant-a", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	batch, err := c.Fetch(1)
	if err != nil {
		t.Fatal(err)
	}
	m := <-batch.Messages()
	if m == nil {
		t.Fatal(batch.Error())
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	ack := fmt.Sprintf("CONNECT {\"user\":\"plant-b\",\"pass\":\"secret\",\"name\":\"b\",\"server_id\":\"B\",\"version\":\"2.15.2\",\"headers\":true}\r\nLMSG %s 4\r\n+ACK\r\n", m.Reply())
	if _, err := conn.Write([]byte(ack)); err != nil {
		t.Fatal(err)
	}
	var floor uint64
	for start := time.Now(); floor == 0 && time.Since(start) < 5*time.Second; time.Sleep(20 * time.Millisecond) {
		info, err := c.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		floor = info.AckFloor.Stream
	}
	if floor != 1 {
		t.Error("the permissions of a leaf's user apply to acknowledgements")
	}
}

// TestUpstreamLeavesOutWhatItCannotRead: docs/upstream.md, 18.
func TestUpstreamLeavesOutWhatItCannotRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startRaw(t, inStore(dir))
	_, js := jetStreamOf(t, s)
	newTable(t, js)
	for _, name := range []string{"a", "b", "c"} {
		publish(t, js, "s."+name, "body of "+name)
	}
	stopRaw(s)
	block := filepath.Join(StreamDir{server.DEFAULT_GLOBAL_ACCOUNT, "S"}.in(filepath.Join(dir, server.JetStreamStoreDir)), messagesDir, "1.blk")
	data, err := os.ReadFile(block)
	if err != nil {
		t.Fatal(err)
	}
	data[bytes.Index(data, []byte("body of b"))] ^= 1
	if err := os.WriteFile(block, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s = startRaw(t, inStore(dir))
	_, js = jetStreamOf(t, s)
	c, err := js.CreateConsumer(t.Context(), "S", jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy})
	if err != nil {
		t.Fatal(err)
	}
	counted := c.CachedInfo().NumPending
	batch, err := c.Fetch(3, jetstream.FetchMaxWait(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	for range batch.Messages() {
		got++
	}
	if counted != 3 || got != 2 || s.Healthz(nil).Error != "" {
		t.Errorf("of %d messages %d are delivered, health %q: a message that cannot be read is no longer left out without a word", counted, got, s.Healthz(nil).Error)
	}
}

// TestUpstreamCapturesAnImportOfADomain: docs/upstream.md, 19.
func TestUpstreamCapturesAnImportOfADomain(t *testing.T) {
	t.Parallel()
	addr := fmt.Sprintf("127.0.0.1:%d", porttest.Port(t))
	hub := startRaw(t, fromConfig(t, t.TempDir(), fmt.Sprintf(`
server_name: hub, listen: "127.0.0.1:-1", leafnodes { listen: %q }
jetstream { domain: hub, store_dir: %q }
accounts {
  FABRIC { jetstream: enabled, users: [ { user: bridge, password: secret } ], exports: [ { service: "$JS.API.STREAM.INFO.S" } ] }
  A { users: [ { user: plant-a, password: secret } ], imports: [
    { service: { account: FABRIC, subject: "$JS.API.STREAM.INFO.S" }, to: "$JS.hub.API.STREAM.INFO.S" }
    { service: { account: FABRIC, subject: "$JS.API.STREAM.INFO.S" }, to: "$JS.FABRIC.API.STREAM.INFO.S" }
  ] }
}`, addr, t.TempDir())))
	_, js := jetStreamOf(t, hub, nats.UserInfo("bridge", "secret"))
	newTable(t, js)
	nc, _ := jetStreamOf(t, startRaw(t, withPassword(t, addr)))
	answered := func(domain string) bool {
		m, err := nc.Request("$JS."+domain+".API.STREAM.INFO.S", nil, time.Second)
		return err == nil && strings.Contains(string(m.Data), `"state"`)
	}
	polltest.Eventually(t, "answer in the pseudo domain", func() bool { return answered("FABRIC") })
	if answered("hub") {
		t.Error("an import that is named after the hub's domain is answered")
	}
}

// TestUpstreamGivesUpASlowHandshake: docs/upstream.md, 27.
func TestUpstreamGivesUpASlowHandshake(t *testing.T) {
	t.Parallel()
	hub := natstest.StartHub(t, "plant-a")
	line := natstest.NewLine(t, hub.LeafAddr())
	line.Delay(1100*time.Millisecond, 0)
	opts, err := server.ProcessConfigFile(natstest.LeafConf(t, "plant-a", line.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	leaf := startRaw(t, opts)
	for range 2 {
		polltest.Eventually(t, "the hub lets the leaf in", func() bool { return hub.Server.NumLeafNodes() == 1 })
		polltest.Eventually(t, "the leaf gives up", func() bool { return hub.Server.NumLeafNodes() == 0 })
		if leaf.NumLeafNodes() != 0 {
			t.Fatal("the leaf waits longer than two seconds for the answer to its CONNECT")
		}
	}
}

// TestUpstreamLooksUpBehindAProxy: docs/upstream.md, 24.
func TestUpstreamLooksUpBehindAProxy(t *testing.T) {
	t.Parallel()
	opts := &server.Options{ServerName: "plant-a", DontListen: true, NoSigs: true, NoSystemAccount: true}
	opts.LeafNode.ReconnectInterval = 100 * time.Millisecond
	remote := &server.RemoteLeafOpts{URLs: []*url.URL{{Scheme: "nats-leaf", Host: "hub.invalid:7422"}}}
	proxy := natstest.StartProxy(t, "", "")
	remote.Proxy.URL = proxy.URL
	opts.LeafNode.Remotes = []*server.RemoteLeafOpts{remote}
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	seen := &refusals{}
	s.SetLoggerV2(seen, false, false, false)
	s.Start()
	t.Cleanup(func() { stopRaw(s) })
	polltest.Eventually(t, "an attempt", func() bool { return seen.last(nil) != nil })
	if err := seen.last(nil); !strings.Contains(err.Error(), "lookup for host") {
		t.Errorf("the proxy was asked: %v", err)
	}
}

// TestUpstreamAnswersNobodyBehindALeaf: docs/upstream.md, 29.
func TestUpstreamAnswersNobodyBehindALeaf(t *testing.T) {
	t.Parallel()
	hub := natstest.StartHub(t, "plant-a")
	_, nc := run(t, natstest.LeafConf(t, "plant-a", hub.LeafAddr()))
	next := streams.PullSubject("plant-a") // DESIRED has no consumer plant-a
	polltest.Eventually(t, "the subject at the leaf", func() bool {
		_, err := nc.Request(next, []byte(`{"batch":1}`), 500*time.Millisecond)
		return errors.Is(err, nats.ErrTimeout)
	})
	if _, err := hub.Connect(t, "bridge").Request("$JS.API.CONSUMER.MSG.NEXT.DESIRED.plant-a", []byte(`{"batch":1}`), 2*time.Second); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("a client of the hub gets %v: nobody is there for another reason", err)
	}
}
