package fabric

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/porttest"
	"github.com/petiole-io/petiole/leaf/credential"
	"github.com/petiole-io/petiole/streams"
)

// gateway is a leaf's nats-server that runs from deploy/, without a hub, and the leaf's own
// connection to it.
type gateway struct {
	conf string
	leaf Leaf
	own  *nats.Conn
	js   jetstream.JetStream
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	dir := t.TempDir()
	seed := filepath.Join(dir, "leaf.nk")
	if _, err := credential.Seed(seed); err != nil {
		t.Fatal(err)
	}
	g := &gateway{conf: filepath.Join(dir, "leaf.conf"), leaf: Leaf{
		Site: "plant-a", Listen: porttest.Addr(t), MQTT: porttest.Addr(t), LeafUser: true, Store: filepath.Join(dir, "js"),
		URL: "nats-leaf://" + porttest.Addr(t), SeedFile: seed,
	}}
	must(t, RepoTemplates("../../..").WriteLeaf(g.conf, g.leaf))
	run(t, g.conf)
	g.own = g.connect(t, nats.UserInfo(UserLeaf, g.password(t, UserLeaf)))
	var err error
	g.js, err = jetstream.New(g.own)
	must(t, err)
	must(t, streams.Ensure(t.Context(), g.js, streams.LeafStreams("plant-a", streams.LeafLimits{})))
	for _, subject := range []string{secretSubject, sampleSubject, reportSubject} {
		_, err := g.js.Publish(t.Context(), subject, []byte(`{"value":"stored"}`))
		must(t, err)
	}
	return g
}

var (
	secretSubject = streams.DesiredSubject("plant-a", streams.Ref{Resource: "secrets", Namespace: "default", Name: "login"})
	podSubject    = streams.DesiredSubject("plant-a", streams.Ref{Node: "plant-a-1", Resource: "pods", Namespace: "default", Name: "forged"})
	sampleSubject = streams.LocalTelemetrySubject("sample", "default", "pump")
	reportSubject = streams.LocalReportedSubject(streams.Ref{Resource: "nodes", Name: "plant-a-1"})
)

func (g *gateway) password(t *testing.T, user string) string {
	t.Helper()
	p, err := credential.ReadPassword(filepath.Join(UsersDir(g.conf), user+".conf"))
	must(t, err)
	return p
}

func (g *gateway) connect(t *testing.T, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("nats://"+g.leaf.Listen, opts...)
	must(t, err)
	t.Cleanup(nc.Close)
	return nc
}

func (g *gateway) operator(t *testing.T) *nats.Conn {
	t.Helper()
	seed, err := nats.NkeyOptionFromSeed(filepath.Join(UsersDir(g.conf), UserOperator+".nk"))
	must(t, err)
	return g.connect(t, seed, nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
}

func (g *gateway) application(t *testing.T) *nats.Conn {
	t.Helper()
	return g.connect(t, nats.UserInfo(UserApplication, g.password(t, UserApplication)), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
}

// mqttClient connects over MQTT; without a user when it is empty.
func (g *gateway) mqttClient(user, password string) (mqtt.Client, error) {
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + g.leaf.MQTT).SetClientID("c-" + user).SetUsername(user).SetPassword(password).SetConnectRetry(false).SetAutoReconnect(false))
	k := c.Connect()
	if !k.WaitTimeout(10 * time.Second) {
		return nil, fmt.Errorf("no answer from %s", g.leaf.MQTT)
	}
	return c, k.Error()
}

// stored returns the last sequences of the site's streams.
func (g *gateway) stored(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, name := range []string{streams.SiteDesired, streams.SiteReported, streams.SiteTelemetry, streams.SiteQuarantine} {
		s, err := g.js.Stream(t.Context(), name)
		must(t, err)
		i := s.CachedInfo()
		fmt.Fprintf(&b, "%s %d..%d, %d consumers; ", name, i.State.FirstSeq, i.State.LastSeq, i.State.Consumers)
	}
	return b.String()
}

// TestNobodyWithoutACredential tries to get in without one, and with wrong ones.
func TestNobodyWithoutACredential(t *testing.T) {
	g := newGateway(t)
	other := filepath.Join(t.TempDir(), "other.nk")
	_, err := credential.Seed(other)
	must(t, err)
	stranger, err := nats.NkeyOptionFromSeed(other)
	must(t, err)
	link, err := nats.NkeyOptionFromSeed(g.leaf.SeedFile)
	must(t, err)
	for name, opts := range map[string][]nats.Option{
		"nobody":                    nil,
		"gateway, without password": {nats.UserInfo("gateway", "")},
		"leaf, without password":    {nats.UserInfo(UserLeaf, "")},
		"leaf, wrong password":      {nats.UserInfo(UserLeaf, "wrong")},
		"application, wrong":        {nats.UserInfo(UserApplication, "wrong")},
		"operator, by name":         {nats.UserInfo(UserOperator, "")},
		"another nkey":              {stranger},
		"the link's nkey":           {link},
	} {
		if nc, err := nats.Connect("nats://"+g.leaf.Listen, opts...); err == nil {
			_, err := nc.Request("$JS.API.STREAM.NAMES", nil, time.Second)
			t.Errorf("%s is let in; asking for the streams: %v", name, err)
			nc.Close()
		}
	}
	for user, password := range map[string]string{
		"": "", "gateway": "", UserApplication: "", UserApplication + "-": "wrong", UserOperator: "", UserLeaf: g.password(t, UserLeaf),
	} {
		if c, err := g.mqttClient(user, password); err == nil {
			c.Disconnect(0)
			t.Errorf("%q with the password %q is let in over MQTT", user, password)
		}
	}
	must(t, filepath.WalkDir(filepath.Dir(g.conf), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		return err
	}))
}

// TestUsersOfASite has the operator and an application try what only the leaf may do:
// nothing that they send reaches the leaf's account but what docs/install.md allows, and
// the streams stay as they are.
func TestUsersOfASite(t *testing.T) {
	g := newGateway(t)
	all, err := g.own.SubscribeSync(">")
	must(t, err)
	var answered atomic.Int64
	answer, err := g.own.Subscribe(streams.CommandFilter("plant-a"), func(m *nats.Msg) {
		if m.Reply != "" {
			must(t, m.Respond([]byte("done")))
			answered.Add(1)
		}
	})
	must(t, err)
	defer func() { must(t, answer.Unsubscribe()) }()
	flush(t, g.own)
	app, err := g.mqttClient(UserApplication, g.password(t, UserApplication))
	must(t, err)
	defer app.Disconnect(100)
	for name, u := range map[string]struct {
		publish func(subject string)
		nc      *nats.Conn
	}{
		"operator":    {nc: g.operator(t)},
		"application": {nc: g.application(t)},
		"application over MQTT": {publish: func(subject string) {
			k := app.Publish(strings.ReplaceAll(subject, ".", "/"), 1, false, "forged")
			if !k.WaitTimeout(10 * time.Second) {
				t.Errorf("no answer to %s over MQTT", subject)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			before, answers := g.stored(t), answered.Load()
			if u.publish == nil {
				u.publish = func(subject string) {
					must(t, u.nc.Publish(subject, []byte("forged")))
					// The answer to an allowed request must not be stored either.
					must(t, u.nc.PublishRequest(subject, podSubject, []byte("forged")))
				}
				tryRequests(t, u.nc)
			}
			for _, subject := range []string{
				secretSubject, podSubject, reportSubject, sampleSubject, "local.quarantine.x", "request.plant-a.token", "presence.plant-a",
				"reported.plant-a._._.nodes._.plant-a-1", "telemetry.plant-a.sample.default.pump", "sync.plant-a", "$JS.ACK.DESIRED.plant-a.1.1.1.1.1",
				"$JS.API.STREAM.PURGE.SITE_DESIRED", "$JS.API.STREAM.DELETE.SITE_TELEMETRY", "$JS.API.STREAM.INFO.SITE_DESIRED",
				"$JS.API.DIRECT.GET.SITE_TELEMETRY." + sampleSubject, "command.plant-a.default.pump", "command.plant-b.default.pump",
			} {
				u.publish(subject)
			}
			if u.nc != nil {
				flush(t, u.nc)
			}
			// The answers to allowed requests have been sent: an application may command, an
			// operator may ask for the state of a stream.
			switch name {
			case "application":
				polltest.Eventually(t, "the application's command is answered", func() bool { return answered.Load() > answers })
			case "operator":
				_, err := u.nc.Request("$JS.API.STREAM.INFO.SITE_DESIRED", nil, polltest.Limit)
				must(t, err)
			}
			flush(t, g.own)
			if after := g.stored(t); after != before {
				t.Errorf("the streams were\n%s and are\n%s", before, after)
			}
			allowed := map[string][]string{
				"operator":              {"$JS.API.STREAM.INFO.SITE_DESIRED", "$JS.API.DIRECT.GET.SITE_TELEMETRY." + sampleSubject},
				"application":           {"command.plant-a.default.pump"},
				"application over MQTT": {"command.plant-a.default.pump"},
			}[name]
			// All that reached the account comes before the leaf's own next message.
			end := g.own.NewInbox()
			must(t, g.own.Publish(end, nil))
			for {
				m, err := all.NextMsg(polltest.Limit)
				must(t, err)
				if m.Subject == end {
					break
				}
				if string(m.Data) == "forged" && !slices.Contains(allowed, m.Subject) {
					t.Errorf("%s reaches the leaf's account", m.Subject)
				}
			}
		})
	}
}

// tryRequests sends the requests that only the leaf may send.
func tryRequests(t *testing.T, nc *nats.Conn) {
	t.Helper()
	push := `{"stream_name":"SITE_TELEMETRY","config":{"deliver_subject":"` + podSubject + `","ack_policy":"none"}}`
	for subject, body := range map[string]string{
		"$JS.API.STREAM.MSG.GET.SITE_DESIRED":                                    `{"last_by_subj":"` + secretSubject + `"}`,
		"$JS.API.DIRECT.GET.SITE_DESIRED":                                        `{"last_by_subj":"` + secretSubject + `"}`,
		"$JS.API.DIRECT.GET.SITE_DESIRED." + secretSubject:                       ``,
		"$JS.API.CONSUMER.CREATE.SITE_DESIRED":                                   `{"stream_name":"SITE_DESIRED","config":{"deliver_subject":"_INBOX.x","ack_policy":"none"}}`,
		"$JS.API.CONSUMER.CREATE.SITE_TELEMETRY":                                 push,
		"$JS.API.CONSUMER.CREATE.SITE_TELEMETRY.forward":                         push,
		"$JS.API.CONSUMER.MSG.NEXT.SITE_DESIRED.apply":                           `1`,
		"$JS.API.CONSUMER.DELETE.SITE_DESIRED.apply":                             ``,
		"$JS.API.STREAM.CREATE.THIEF":                                            `{"name":"THIEF","subjects":["thief"],"sources":[{"name":"SITE_DESIRED"}]}`,
		"$JS.API.STREAM.UPDATE.SITE_DESIRED":                                     `{"name":"SITE_DESIRED","subjects":["desired.plant-a.>"],"republish":{"src":">","dest":"thief.>"}}`,
		"$JS.API.STREAM.PURGE.SITE_DESIRED":                                      ``,
		"$JS.API.STREAM.DELETE.SITE_DESIRED":                                     ``,
		"$JS.API.STREAM.MSG.DELETE.SITE_DESIRED":                                 `{"seq":1}`,
		"$JS.API.STREAM.SNAPSHOT.SITE_DESIRED":                                   `{"deliver_subject":"_INBOX.x"}`,
		"$JS.plant-a.API.STREAM.MSG.GET.SITE_DESIRED":                            `{"seq":1}`,
		"$JS.plant-a.API.STREAM.PURGE.SITE_DESIRED":                              ``,
		"$SYS.REQ.SERVER.PING":                                                   ``,
		"$SYS.REQ.USER.INFO.x":                                                   ``,
		streams.RequestSubject("plant-a", streams.RequestToken):                  `{}`,
		streams.DesiredSubject("plant-a", streams.Ref{Resource: "x", Name: "x"}): `{}`,
	} {
		tryRequest(t, nc, subject, body)
	}
}

// tryRequest sends a request that must be refused: the server reports a permission violation or
// that there is no responder, or the answer is an error.
func tryRequest(t *testing.T, nc *nats.Conn, subject, body string) {
	t.Helper()
	denied := make(chan string, 100)
	nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrPermissionViolation) {
			denied <- err.Error()
		}
	})
	answers := make(chan *nats.Msg, 1)
	sub, err := nc.ChanSubscribe(nc.NewInbox(), answers)
	must(t, err)
	defer func() { must(t, sub.Unsubscribe()) }()
	must(t, nc.PublishRequest(subject, sub.Subject, []byte(body)))
	// The server names a refused subject as it maps it.
	mapped := strings.Replace(subject, "$JS.plant-a.API.", "$JS.API.", 1)
	for limit := time.After(polltest.Limit); ; {
		select {
		case m := <-answers:
			if !refused(m) && m.Header.Get("Status") != noResponders {
				t.Errorf("%s is answered: %.300s", subject, m.Data)
			}
			return
		case text := <-denied:
			if strings.Contains(text, strconv.Quote(subject)) || strings.Contains(text, strconv.Quote(mapped)) {
				return
			}
		case <-limit:
			t.Errorf("%s is neither refused nor answered", subject)
			return
		}
	}
}

// TestUsersDoTheirWork has each user do what it is there for.
func TestUsersDoTheirWork(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*polltest.Limit)
	defer cancel()
	g := newGateway(t)
	t.Run("operator looks", func(t *testing.T) {
		js, err := jetstream.New(g.operator(t))
		must(t, err)
		names := map[string]bool{}
		for i := range js.ListStreams(ctx).Info() {
			names[i.Config.Name] = true
		}
		if len(names) != 4 || !names[streams.SiteDesired] {
			t.Errorf("the operator sees the streams %v", names)
		}
		must(t, streams.EnsureConsumer(ctx, g.js, streams.SiteDesired, streams.LocalConsumer(streams.ApplyConsumer, "", 1)))
		s, err := js.Stream(ctx, streams.SiteDesired)
		must(t, err)
		i, err := s.Info(ctx, jetstream.WithSubjectFilter(">"))
		if err != nil || len(i.State.Subjects) != 1 {
			t.Errorf("the operator sees the subjects of %+v: %v", i, err)
		}
		c, err := s.Consumer(ctx, streams.ApplyConsumer)
		must(t, err)
		if c.CachedInfo().NumPending != 1 {
			t.Errorf("the operator sees %d pending, want 1", c.CachedInfo().NumPending)
		}
		for _, stream := range []string{streams.SiteTelemetry, streams.SiteReported} {
			s, err := js.Stream(ctx, stream)
			must(t, err)
			if m, err := s.GetMsg(ctx, 1); err != nil || len(m.Data) == 0 {
				t.Errorf("the operator reads %s: %v", stream, err)
			}
		}
	})
	t.Run("samples live", func(t *testing.T) {
		for name, nc := range map[string]*nats.Conn{"operator": g.operator(t), "application": g.application(t)} {
			sub, err := nc.SubscribeSync("local.telemetry.>")
			must(t, err)
			flush(t, nc)
			must(t, g.own.Publish(sampleSubject, []byte(name)))
			m, err := sub.NextMsg(polltest.Limit)
			if err != nil || string(m.Data) != name {
				t.Errorf("%s hears %v of the sample: %v", name, m, err)
			}
		}
	})
	sub, err := g.own.Subscribe(streams.CommandFilter("plant-a"), func(m *nats.Msg) { must(t, m.Respond([]byte("done"))) })
	must(t, err)
	defer func() { must(t, sub.Unsubscribe()) }()
	flush(t, g.own)
	t.Run("application commands", func(t *testing.T) {
		m, err := g.application(t).RequestWithContext(ctx, "command.plant-a.default.pump", []byte(`{}`))
		if err != nil || string(m.Data) != "done" {
			t.Errorf("the command is answered %v: %v", m, err)
		}
	})
	t.Run("application over MQTT", func(t *testing.T) {
		c, err := g.mqttClient(UserApplication, g.password(t, UserApplication))
		must(t, err)
		defer c.Disconnect(100)
		heard := make(chan string, 100)
		k := c.Subscribe("$hw/events/#", 1, func(_ mqtt.Client, m mqtt.Message) { heard <- m.Topic() + " " + string(m.Payload()) })
		if !k.WaitTimeout(10*time.Second) || k.Error() != nil {
			t.Fatal(k.Error())
		}
		asked, err := g.own.SubscribeSync("$hw.events.device.*.*.twin.get")
		must(t, err)
		flush(t, g.own)
		c.Publish("$hw/events/device/default/pump/twin/get", 1, false, "{}").WaitTimeout(10 * time.Second)
		if _, err := asked.NextMsg(polltest.Limit); err != nil {
			t.Errorf("twin/get does not reach the leaf: %v", err)
		}
		must(t, g.own.Publish("$hw.events.device.default.pump.twin.get.result", []byte("twins")))
		var got []string
		const request, answer = "$hw/events/device/default/pump/twin/get {}", "$hw/events/device/default/pump/twin/get/result twins"
		for deadline := time.After(polltest.Limit); !slices.Contains(got, request) || !slices.Contains(got, answer); {
			select {
			case m := <-heard:
				got = append(got, m)
			case <-deadline:
				t.Fatalf("heard %q, want its own request and the answer", got)
			}
		}
		if len(got) != 2 {
			t.Errorf("heard %q, want its own request and the answer, each once", got)
		}
		for _, filter := range []string{"desired/#", "local/reported/#", "reported/#", "$JS/#"} {
			k := c.Subscribe(filter, 0, nil)
			if k.WaitTimeout(10*time.Second) && k.(*mqtt.SubscribeToken).Result()[filter] <= 2 {
				t.Errorf("an application may read %s", filter)
			}
		}
		// With # it hears the topics of applications, and nothing of the site.
		all := make(chan string, 100)
		k = c.Subscribe("#", 1, func(_ mqtt.Client, m mqtt.Message) { all <- m.Topic() })
		if !k.WaitTimeout(10*time.Second) || k.Error() != nil || k.(*mqtt.SubscribeToken).Result()["#"] > 2 {
			t.Fatal("subscription to # is refused: ", k.Error())
		}
		for _, subject := range []string{secretSubject, "local.reported._._.pods.default.x", "reported.plant-a._._.pods.default.x", "request.plant-a.x", "temp"} {
			must(t, g.own.Publish(subject, []byte("{}")))
		}
		flush(t, g.own)
		c.Publish("temp", 1, false, "21.5").WaitTimeout(10 * time.Second)
		select {
		case topic := <-all:
			if topic != "temp" {
				t.Errorf("an application hears %s", topic)
			}
		case <-time.After(polltest.Limit):
			t.Error("an application does not hear its own topic")
		}
		must(t, c.Unsubscribe("#").Error())
		if len(all) > 0 {
			t.Errorf("an application hears %s", <-all)
		}
	})
	tryRequest(t, g.application(t), "$JS.API.STREAM.INFO.SITE_DESIRED", "")
}
