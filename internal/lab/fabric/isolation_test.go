package fabric

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/petiole-io/petiole/internal/lab/pki"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/porttest"
	"github.com/petiole-io/petiole/leaf/credential"
	"github.com/petiole-io/petiole/streams"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestDeployedConfiguration runs the configurations of deploy/ as they are, with TLS
// and nkeys: through its account a site gets its objects, acknowledges them and resets
// its consumer, the backlog counts distinct objects while the line is cut, the site's
// operator sees the site's domain from the hub, and no credential of one site reaches
// another's subjects.
func TestDeployedConfiguration(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	w := newWorld(t, "plant-a", "plant-b")
	hubJS := w.hubJetStream(t, ctx)
	line := natstest.NewLine(t, w.hub.LeafListen)
	atSite := w.startLeaf(t, ctx, "plant-a", line.Addr())
	stored, pull := storeDeliveries(t, atSite)
	linked(t, atSite, "plant-a")
	pull()

	putConfigMap(t, ctx, hubJS, "plant-a", "one", "0")
	putConfigMap(t, ctx, hubJS, "plant-b", "other", "0")
	polltest.Eventually(t, "the first object is at the site", func() bool { return stored() == 1 })
	polltest.Eventually(t, "the site's acknowledgement is at the hub", func() bool { return pending(t, ctx, hubJS, "plant-a") == 0 })

	line.Cut()
	polltest.Eventually(t, "the hub sees the cut", func() bool { return !active(t, ctx, hubJS, "plant-a") })
	for i := range 50 {
		putConfigMap(t, ctx, hubJS, "plant-a", "one", fmt.Sprint(i))
		putConfigMap(t, ctx, hubJS, "plant-a", "two", fmt.Sprint(i))
	}
	// The server counts what a consumer has yet to deliver a moment after it stored it.
	polltest.Eventually(t, "100 changes of two objects are two that are pending", func() bool { return pending(t, ctx, hubJS, "plant-a") == 2 })
	line.Heal()
	linked(t, atSite, "plant-a")
	pull()
	polltest.Eventually(t, "both objects are at the site", func() bool { return stored() == 2 })
	polltest.Eventually(t, "nothing is pending", func() bool { return pending(t, ctx, hubJS, "plant-a") == 0 })
	if n := pending(t, ctx, hubJS, "plant-b"); n != 1 {
		t.Errorf("plant-b, which never connected, has %d pending, want 1", n)
	}

	t.Run("reset", func(t *testing.T) {
		answer, err := atSite.RequestWithContext(ctx, streams.ResetSubject("plant-a"), nil)
		must(t, err)
		if refused(answer) {
			t.Errorf("the site may not reset its own consumer: %s", answer.Data)
		}
	})
	t.Run("operator sees the site's domain", func(t *testing.T) {
		js, err := jetstream.NewWithDomain(w.connect(t, "plant-a-operator"), "plant-a")
		must(t, err)
		s, err := js.Stream(ctx, streams.SiteDesired)
		must(t, err)
		if n := s.CachedInfo().State.Msgs; n != 2 {
			t.Errorf("SITE_DESIRED through the hub has %d messages, want 2", n)
		}
	})
	t.Run("isolation", func(t *testing.T) { w.testIsolation(t, ctx, hubJS) })
	t.Run("leaf user is no client", func(t *testing.T) {
		if nc, err := nats.Connect(w.url, w.seed(t, "plant-a-leaf")); err == nil {
			nc.Close()
			t.Error("the leaf user connected as a client")
		}
	})
}

// testIsolation holds plant-a's credentials and tries for plant-b.
func (w *world) testIsolation(t *testing.T, ctx context.Context, hubJS jetstream.JetStream) {
	fabric, site := w.connect(t, "bridge"), w.connect(t, "plant-a-operator")
	for _, subject := range []string{
		"desired.plant-b.>", "reported.plant-b.>", "telemetry.plant-b.>", "presence.plant-b", "request.plant-b.>", "sync.plant-b",
		"$JS.ACK.DESIRED.plant-b.>",
	} {
		heard, err := fabric.SubscribeSync(subject)
		if err != nil {
			t.Fatal(err)
		}
		overheard, err := site.SubscribeSync(subject)
		if err != nil {
			t.Fatal(err)
		}
		flush(t, fabric, site)
		concrete := concreteSubject(subject)
		if err := site.Publish(concrete, []byte("forged")); err != nil {
			t.Fatal(err)
		}
		// The same connection's allowed message comes after it, in order.
		proof, err := fabric.SubscribeSync("presence.plant-a")
		if err != nil {
			t.Fatal(err)
		}
		flush(t, fabric)
		if err := site.Publish("presence.plant-a", nil); err != nil {
			t.Fatal(err)
		}
		if _, err := proof.NextMsg(polltest.Limit); err != nil {
			t.Fatalf("own presence does not arrive: %v", err)
		}
		if received(t, heard, "forged") {
			t.Errorf("%s published by plant-a reached FABRIC", concrete)
		}
		if err := fabric.Publish(concrete, []byte("theirs")); err != nil {
			t.Fatal(err)
		}
		// What the site may hear comes after it on the same connection.
		allowed, err := site.SubscribeSync(streams.SyncSubject("plant-a"))
		if err != nil {
			t.Fatal(err)
		}
		flush(t, site)
		if err := fabric.Publish(streams.SyncSubject("plant-a"), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := allowed.NextMsg(polltest.Limit); err != nil {
			t.Fatalf("the site does not hear its own subject: %v", err)
		}
		if received(t, overheard, "theirs") {
			t.Errorf("%s published in FABRIC reached plant-a", concrete)
		}
		for _, s := range []*nats.Subscription{heard, overheard, proof, allowed} {
			if err := s.Unsubscribe(); err != nil {
				t.Fatal(err)
			}
		}
	}
	inbox := site.NewInbox()
	answers := make(chan *nats.Msg, 100)
	sub, err := site.ChanSubscribe(inbox+".>", answers)
	must(t, err)
	for _, api := range []string{
		streams.PullSubject("plant-b"), "$JS.hub.API.CONSUMER.MSG.NEXT.DESIRED.plant-b", "$JS.API.CONSUMER.MSG.NEXT.DESIRED.plant-b",
		streams.ResetSubject("plant-b"), "$JS.hub.API.CONSUMER.RESET.DESIRED.plant-b",
		"$JS.API.CONSUMER.RESET.DESIRED.plant-b", "$JS.hub.API.STREAM.INFO.DESIRED", "$JS.FABRIC.API.STREAM.INFO.DESIRED",
		"$JS.hub.API.DIRECT.GET.DESIRED", "$JS.hub.API.CONSUMER.CREATE.DESIRED",
	} {
		must(t, site.PublishRequest(api, inbox+"."+api, nil))
	}
	// The same connection's allowed request comes after them and is answered.
	last := streams.ResetSubject("plant-a")
	must(t, site.PublishRequest(last, inbox+"."+last, nil))
	for subject := ""; subject != last; {
		var msg *nats.Msg
		select {
		case msg = <-answers:
		case <-time.After(polltest.Limit):
			t.Fatalf("%s, which plant-a may send, is not answered", last)
		}
		subject = strings.TrimPrefix(msg.Subject, inbox+".")
		if subject != last && msg.Header.Get("Status") != noResponders && !refused(msg) {
			t.Errorf("%s answered plant-a: %s", subject, msg.Data)
		}
		if subject == last && refused(msg) {
			t.Errorf("%s, which plant-a may send, is refused: %s", subject, msg.Data)
		}
	}
	must(t, sub.Unsubscribe())
	if n := pending(t, ctx, hubJS, "plant-b"); n == 0 {
		t.Error("plant-b's backlog is gone")
	}
}

// noResponders is the status of a message that the server sends when nobody may answer.
const noResponders = "503"

// received reports whether the messages that have arrived include one with the body.
func received(t *testing.T, sub *nats.Subscription, body string) bool {
	t.Helper()
	for {
		n, _, err := sub.Pending()
		must(t, err)
		if n == 0 {
			return false
		}
		msg, err := sub.NextMsg(time.Second)
		must(t, err)
		if string(msg.Data) == body {
			return true
		}
	}
}

func refused(msg *nats.Msg) bool {
	var answer struct{ Error *struct{ Code int } }
	return decode(msg.Data, &answer) == nil && answer.Error != nil
}

// world is a hub that runs from deploy/ with its keys in a temporary folder.
type world struct {
	dir       string
	url       string
	hub       Hub
	templates Templates
	authority *pki.Authority
}

func newWorld(t *testing.T, sites ...string) *world {
	t.Helper()
	w := prepareWorld(t, sites...)
	run(t, w.writeHub(t))
	return w
}

// prepareWorld creates keys and certificates for a hub that does not run yet.
func prepareWorld(t *testing.T, sites ...string) *world {
	t.Helper()
	dir := t.TempDir()
	ca, err := pki.NewAuthority(dir, "nats-ca")
	must(t, err)
	cert, err := ca.Issue(dir, "nats-hub", pki.Subject{Name: "hub", Hosts: []string{"127.0.0.1"}})
	must(t, err)
	w := &world{dir: dir, templates: RepoTemplates("../../.."), authority: ca, hub: Hub{
		MaxFileStore: SmallHub, MaxBatches: Batches(len(sites)),
		Listen: porttest.Addr(t), Monitor: porttest.Addr(t), LeafListen: porttest.Addr(t),
		Store: filepath.Join(dir, "hub"), CertFile: cert.CertFile, KeyFile: cert.KeyFile,
	}}
	w.url = "nats://" + w.hub.Listen
	w.hub.Bridge, w.hub.Admin, w.hub.System = w.key(t, "bridge"), w.key(t, "admin"), w.key(t, "system")
	for _, s := range sites {
		w.addSite(t, s)
	}
	return w
}

func (w *world) addSite(t *testing.T, s string) {
	t.Helper()
	w.hub.Sites = append(w.hub.Sites, Site{Name: s, Leaf: w.key(t, s+"-leaf"), Operator: w.key(t, s+"-operator")})
}

// writeHub writes the hub's configuration and returns its path.
func (w *world) writeHub(t *testing.T) string {
	t.Helper()
	conf := filepath.Join(w.dir, "hub.conf")
	must(t, w.templates.WriteHub(conf, w.hub))
	return conf
}

func (w *world) keyFile(user string) string { return filepath.Join(w.dir, user+".nk") }

func (w *world) key(t *testing.T, user string) string {
	t.Helper()
	public, err := credential.Seed(w.keyFile(user))
	must(t, err)
	again, err := credential.Seed(w.keyFile(user))
	must(t, err)
	if again != public {
		t.Fatalf("key of %s changed from %s to %s", user, public, again)
	}
	return public
}

func (w *world) seed(t *testing.T, user string) nats.Option {
	t.Helper()
	opt, err := nats.NkeyOptionFromSeed(w.keyFile(user))
	must(t, err)
	return opt
}

func (w *world) connect(t *testing.T, user string) *nats.Conn {
	t.Helper()
	opts := []nats.Option{w.seed(t, user)}
	if w.hub.ClientTLS {
		opts = append(opts, nats.RootCAs(w.authority.CertFile))
	}
	nc, err := nats.Connect(w.url, opts...)
	must(t, err)
	t.Cleanup(nc.Close)
	return nc
}

func (w *world) hubJetStream(t *testing.T, ctx context.Context) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.NewWithDomain(w.connect(t, "bridge"), streams.HubDomain)
	must(t, err)
	must(t, streams.Ensure(ctx, js, streams.HubStreams(streams.HubLimits{})))
	for _, s := range w.hub.Sites {
		must(t, streams.Ensure(ctx, js, streams.SiteStreams(s.Name, streams.SiteLimits{})))
		must(t, streams.EnsureConsumer(ctx, js, streams.Desired, streams.SiteConsumer(s.Name)))
	}
	return js
}

// linked waits until the hub answers the site.
func linked(t *testing.T, atSite *nats.Conn, site string) {
	t.Helper()
	polltest.Eventually(t, "the hub answers "+site, func() bool {
		_, err := atSite.Request(streams.ResetSubject(site), nil, time.Second)
		return err == nil
	})
}

func (w *world) startLeaf(t *testing.T, ctx context.Context, site, hubAddr string) *nats.Conn {
	t.Helper()
	conf, listen := filepath.Join(w.dir, site, "leaf.conf"), porttest.Addr(t)
	must(t, w.templates.WriteLeaf(conf, Leaf{
		Site: site, Listen: listen, MQTT: porttest.Addr(t), LeafUser: true, Store: filepath.Join(w.dir, site, "js"),
		URL: "tls://" + hubAddr, SeedFile: w.keyFile(site + "-leaf"), CAFile: w.authority.CertFile,
	}))
	throughTheLine(t, conf)
	run(t, conf)
	password, err := credential.ReadPassword(filepath.Join(UsersDir(conf), UserLeaf+".conf"))
	must(t, err)
	nc, err := nats.Connect("nats://"+listen, nats.UserInfo(UserLeaf, password))
	must(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	must(t, err)
	must(t, streams.Ensure(ctx, js, streams.LeafStreams(site, streams.LeafLimits{})))
	return nc
}

// throughTheLine has a leaf reach the hub where the test can cut it: by itself it also tries
// the address that the hub told it.
func throughTheLine(t *testing.T, conf string) {
	t.Helper()
	data, err := os.ReadFile(conf)
	must(t, err)
	changed := strings.Replace(string(data), `url: "tls://`, `ignore_discovered_servers: true, url: "tls://`, 1)
	if changed == string(data) {
		t.Fatalf("%s names no hub", conf)
	}
	must(t, os.WriteFile(conf, []byte(changed), 0o600))
}

func run(t *testing.T, conf string) {
	t.Helper()
	opts, err := server.ProcessConfigFile(conf)
	must(t, err)
	opts.NoSigs, opts.NoLog = true, true
	s, err := server.NewServer(opts)
	must(t, err)
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatalf("the server of %s is not ready after 10 s", conf)
	}
}

func putConfigMap(t *testing.T, ctx context.Context, js jetstream.JetStream, site, name, value string) {
	t.Helper()
	m := streams.Message{
		Ref: streams.Ref{Resource: "configmaps", Namespace: "default", Name: name}, Op: streams.OpPut,
		Object: fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q},"data":{"v":%q}}`, name, value),
	}
	_, err := streams.Put(ctx, js, streams.DesiredSubject(site, m.Ref), m)
	must(t, err)
}

// storeDeliveries does at the site what the contract asks of a leaf: it stores each
// delivery under its own subject and then acknowledges it. The result counts the
// distinct objects; pull asks for deliveries, once for each connection of the leaf.
func storeDeliveries(t *testing.T, nc *nats.Conn) (stored func() int, pull func()) {
	t.Helper()
	js, err := jetstream.New(nc)
	must(t, err)
	var mu sync.Mutex
	objects := map[string]bool{}
	take := func(m *nats.Msg) {
		if m.Header.Get("Status") != "" {
			return // an idle heartbeat
		}
		out := nats.NewMsg(m.Subject)
		if fields := strings.Split(m.Reply, "."); len(fields) < 9 {
			t.Errorf("delivery has the reply %q", m.Reply)
			return
		}
		out.Data = m.Data
		if _, err := js.PublishMsg(context.Background(), out); err != nil {
			t.Errorf("store %s: %v", m.Subject, err)
			return
		}
		if err := m.Respond([]byte("+ACK")); err != nil {
			t.Errorf("acknowledge %s: %v", m.Subject, err)
		}
		mu.Lock()
		defer mu.Unlock()
		objects[m.Subject] = true
	}
	stored = func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(objects)
	}
	return stored, func() { natstest.Pull(t, nc, "plant-a", take) }
}

func active(t *testing.T, ctx context.Context, js jetstream.JetStream, site string) bool {
	t.Helper()
	c, err := js.Consumer(ctx, streams.Desired, site)
	must(t, err)
	return c.CachedInfo().NumWaiting > 0
}

func pending(t *testing.T, ctx context.Context, js jetstream.JetStream, site string) int {
	t.Helper()
	c, err := js.Consumer(ctx, streams.Desired, site)
	must(t, err)
	return int(c.CachedInfo().NumPending) + c.CachedInfo().NumAckPending
}

func flush(t *testing.T, conns ...*nats.Conn) {
	t.Helper()
	for _, nc := range conns {
		if err := nc.Flush(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			t.Fatal(err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// concreteSubject returns a subject that the filter matches.
func concreteSubject(filter string) string {
	if strings.HasPrefix(filter, "$JS.ACK.") {
		return strings.TrimSuffix(filter, ">") + "1.1.1.1.1"
	}
	if rest, ok := strings.CutSuffix(filter, ">"); ok {
		return rest + "_._.configmaps.default.x"
	}
	return filter
}

func decode(data []byte, into any) error { return json.Unmarshal(data, into) }
