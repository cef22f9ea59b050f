package leaf

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

// newOperatorSite is newSite at a hub in operator mode, whose accounts are those of the bridge.
func newOperatorSite(t *testing.T) (*site, *natstest.OperatorHub, natstest.User, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	hub, gateway := natstest.StartOperatorHub(t), natstest.NewUser(t)
	hub.Store(t, accounts.Site{Name: "plant-a", Gateways: []string{gateway.Public}})
	s := &site{cfg: DefaultConfig(), line: natstest.NewLine(t, hub.LeafAddr())}
	s.cfg.Site, s.cfg.Node, s.cfg.DataDir = "plant-a", "plant-a-1", t.TempDir()
	s.cfg.NATS.ConfigFile = natstest.OperatorLeafConf(t, "plant-a", s.line.Addr(), hub.GatewayCreds(t, "plant-a", gateway))
	s.bridge = hub.Connect(t, accounts.BridgeCreds)
	var err error
	if s.hub, err = jetstream.New(s.bridge); err != nil {
		t.Fatal(err)
	}
	if err := streams.Ensure(ctx, s.hub, streams.HubStreams(streams.HubLimits{})); err != nil {
		t.Fatal(err)
	}
	if err := streams.Ensure(ctx, s.hub, streams.SiteStreams("plant-a", streams.SiteLimits{})); err != nil {
		t.Fatal(err)
	}
	if err := streams.EnsureConsumer(ctx, s.hub, streams.Desired, streams.SiteConsumer("plant-a")); err != nil {
		t.Fatal(err)
	}
	return s, hub, gateway, ctx
}

// TestLeafAtAHubInOperatorMode runs a leaf with JWT and nkey: with the permissions of a gateway
// it receives, acknowledges, resets, reports, asks and answers commands, before and after a cut.
func TestLeafAtAHubInOperatorMode(t *testing.T) {
	t.Parallel()
	s, hub, gateway, ctx := newOperatorSite(t)
	b := respond(t, s)
	for i := range 50 {
		putDesired(t, ctx, s, fmt.Sprintf("cm-%d", i), i)
	}
	s.start(t, ctx)
	polltest.Eventually(t, "all objects at the site", func() bool { return same(t, ctx, s) && backlog(t, ctx, s) == 0 })
	polltest.Eventually(t, "the inventory is compared", func() bool { return b.seen("equal") > 0 })
	for round := range 2 {
		subject := streams.LocalTelemetrySubject("sample", "default", "pump")
		for i := range 20 {
			if _, err := s.js.Publish(ctx, subject, fmt.Append(nil, i)); err != nil {
				t.Fatal(err)
			}
		}
		want := uint64(20 * (round + 1))
		polltest.Eventually(t, "telemetry at the hub", func() bool { return count(t, ctx, s.hub, streams.Telemetry("plant-a")) >= want })
		s.say(t, ctx, "pod", round)
		polltest.Eventually(t, "the report at the hub", func() bool { return len(heard(t, ctx, s, "pod")) > 0 })
		putDesired(t, ctx, s, "changed", round)
		polltest.Eventually(t, "the change at the site", func() bool { return same(t, ctx, s) && backlog(t, ctx, s) == 0 })
		if round == 0 {
			s.cut(t)
			putDesired(t, ctx, s, "away", round)
			s.line.Heal()
		}
	}
	presence, err := s.bridge.SubscribeSync(streams.PresenceFilter)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.bridge.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := s.nc.Publish(streams.PresenceSubject("plant-a"), []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if m, err := presence.NextMsg(polltest.Limit); err != nil || m.Subject != streams.PresenceSubject("plant-a") {
		t.Errorf("heartbeat: %v, %v", m, err)
	}
	told, err := s.nc.SubscribeSync(streams.SyncSubject("plant-a"))
	if err != nil {
		t.Fatal(err)
	}
	polltest.Eventually(t, "an instruction at the site", func() bool {
		if err := s.bridge.Publish(streams.SyncSubject("plant-a"), []byte("compare")); err != nil {
			t.Fatal(err)
		}
		m, err := told.NextMsg(100 * time.Millisecond)
		return err == nil && string(m.Data) == "compare"
	})
	polltest.Eventually(t, "the leaf has checked the hub", s.check.Checked)
	if p := s.check.Problems(); len(p) > 0 {
		t.Errorf("problems of a hub in order: %q", p)
	}
	operatorOfASite(t, ctx, s, hub, gateway)
}

// operatorOfASite lets an operator in and has him look at the site and command a device.
func operatorOfASite(t *testing.T, ctx context.Context, s *site, hub *natstest.OperatorHub, gateway natstest.User) {
	t.Helper()
	operator := natstest.NewUser(t)
	hub.Store(t, accounts.Site{Name: "plant-a", Gateways: []string{gateway.Public}, Operators: []string{operator.Public}})
	token, err := hub.Keys.OperatorToken("plant-a", operator.Public, "")
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(hub.URL(), nats.UserCredentials(natstest.WriteCreds(t, token, operator)))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := s.nc.Subscribe(streams.CommandFilter("plant-a"), func(m *nats.Msg) { _ = m.Respond([]byte("done")) }); err != nil {
		t.Fatal(err)
	}
	polltest.Eventually(t, "a command is answered", func() bool {
		m, err := nc.Request(streams.CommandSubject("plant-a", "default", "pump"), nil, time.Second)
		return err == nil && string(m.Data) == "done"
	})
	js, err := jetstream.NewWithDomain(nc, "plant-a")
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(ctx, streams.SiteTelemetry)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := stream.GetMsg(ctx, 1); err != nil || string(m.Data) != "0" {
		t.Errorf("the operator reads %v of a sample, %v", m, err)
	}
	// What he may not do is never answered: the server drops it.
	before := count(t, ctx, s.js, streams.SiteDesired)
	for subject, body := range map[string]string{
		"$JS.plant-a.API.STREAM.PURGE.SITE_DESIRED":    "",
		"$JS.plant-a.API.STREAM.DELETE.SITE_REPORTED":  "",
		"$JS.plant-a.API.STREAM.MSG.GET.SITE_DESIRED":  `{"seq":1}`,
		"$JS.plant-a.API.DIRECT.GET.SITE_DESIRED":      `{"seq":1}`,
		"$JS.plant-a.API.CONSUMER.CREATE.SITE_DESIRED": `{"stream_name":"SITE_DESIRED","config":{"ack_policy":"none"}}`,
		streams.PullSubject("plant-a"):                 "1",
		streams.RequestSubject("plant-a", "token"):     "{}",
	} {
		if m, err := nc.Request(subject, []byte(body), 300*time.Millisecond); err == nil {
			t.Errorf("%s is answered: %s", subject, m.Data)
		}
	}
	// Nor does an answer to him come to a subject of the site.
	forged := streams.DesiredSubject("plant-a", streams.Ref{Resource: "pods", Namespace: "default", Name: "forged", Node: "plant-a-1"})
	for _, subject := range []string{"$JS.plant-a.API.STREAM.INFO.SITE_DESIRED", "$JS.plant-a.API.DIRECT.GET.SITE_TELEMETRY." + streams.LocalTelemetrySubject("sample", "default", "pump")} {
		if err := nc.PublishRequest(subject, forged, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, data := range []string{forged, "desired.plant-a.x"} {
		if err := nc.Publish(data, []byte("forged")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := nc.Request("$JS.plant-a.API.INFO", nil, polltest.Limit); err != nil { // comes after them
		t.Fatal(err)
	}
	if after := count(t, ctx, s.js, streams.SiteDesired); after != before {
		t.Errorf("SITE_DESIRED has %d messages, had %d", after, before)
	}
}
