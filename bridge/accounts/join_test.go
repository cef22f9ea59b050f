package accounts_test

import (
	"strings"
	"testing"
	"time"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/join"
)

// TestATokenReachesOneRequest: whoever has a join token, and keeps to no rule, has requests to join
// delivered and nothing else, takes no connection of a gateway, and is cut off when the token
// ends or is replaced.
func TestATokenReachesOneRequest(t *testing.T) {
	t.Parallel()
	h := natstest.StartOperatorHub(t)
	thief, gateway := natstest.NewUser(t), natstest.NewUser(t)
	j := accounts.JoinToken{Key: thief.Public, Expires: time.Now().Add(time.Hour)}
	site := accounts.Site{Name: "plant-a", Gateways: []string{gateway.Public}, Join: &j}
	h.Store(t, site)
	user, err := h.Keys.JoinUserToken("plant-a", j, "")
	must(t, err)
	dial := func() *leafConn {
		t.Helper()
		var l *leafConn
		polltest.Eventually(t, "the hub accepts the token", func() bool {
			var err error
			l, err = dialLeaf(t, h, user, thief)
			return err == nil
		})
		return l
	}
	bridge := h.Connect(t, accounts.BridgeCreds)
	hubStreams(t, h, bridge, "plant-a")
	heard, err := bridge.SubscribeSync(">")
	must(t, err)
	must(t, bridge.Flush())
	for _, subject := range []string{
		"desired.plant-a._._.pods.default.x", "reported.plant-a._._.pods.default.x", "telemetry.plant-a.x", "presence.plant-a", "request.plant-a.token", "request.plant-b.join",
		"sync.plant-a", "command.plant-a.default.pump", "$JS.ACK.DESIRED.plant-a.1.1.1.1.1", streams.PullSubject("plant-a"), streams.ResetSubject("plant-a"),
		"$JS.API.CONSUMER.MSG.NEXT.DESIRED.plant-a", "$JS.hub.API.STREAM.INFO.DESIRED", "$SYS.REQ.CLAIMS.LIST", "_INBOX.x", "_INBOX_plant-a.x",
	} {
		l := dial()
		l.publish(t, subject, "_INBOX_plant-a.1", "forged")
		_ = l.processed(t) // most of them end the connection
		_ = l.Close()
	}
	l := dial()
	l.send(t, "LS+ sync.plant-a\r\n")
	if err := l.processed(t); err == nil {
		t.Error("subscribing sync.plant-a does not end the connection")
	}
	_ = l.Close()
	l = dial()
	l.send(t, "LS+ >\r\n")
	must(t, l.processed(t))
	for _, subject := range []string{"desired.plant-a.x", "sync.plant-a", "request.plant-a.join", "command.plant-a.x.x", "_INBOX_plant-a.1", "presence.plant-a"} {
		must(t, bridge.Publish(subject, []byte("theirs")))
	}
	must(t, bridge.Flush())
	l.send(t, "PING\r\n")
	for {
		line, err := l.in.ReadString('\n')
		must(t, err)
		if strings.HasPrefix(line, "LMSG") {
			t.Errorf("the holder of the token receives %s", line)
		}
		if strings.HasPrefix(line, "PONG") {
			break
		}
	}
	_ = l.Close()
	// The real gateway is let in while as many connections as possible have the token.
	held := []*leafConn{dial(), dial()}
	if _, err := dialLeaf(t, h, user, thief); err == nil || !strings.Contains(err.Error(), "maximum") {
		t.Errorf("a third connection with the token: %v", err)
	}
	_ = redial(t, h, "plant-a", gateway).Close()
	held[0].publish(t, streams.RequestSubject("plant-a", join.Verb), "_INBOX_plant-a.1", "own")
	for own := false; !own; {
		m, err := heard.NextMsg(polltest.Limit)
		must(t, err)
		if string(m.Data) == "forged" {
			t.Errorf("the holder of the token reaches %s", m.Subject)
		}
		own = string(m.Data) == "own"
	}
	// A newer token ends both.
	next := natstest.NewUser(t)
	site.Join = &accounts.JoinToken{Key: next.Public, Expires: time.Now().Add(time.Hour)}
	h.Store(t, site)
	for _, l := range held {
		l.closed(t)
	}
	if _, err := dialLeaf(t, h, user, thief); err == nil {
		t.Error("a replaced token is let in")
	}
	// So does time.
	short := accounts.JoinToken{Key: next.Public, Expires: time.Now().Add(2 * time.Second)}
	user, err = h.Keys.JoinUserToken("plant-a", short, "")
	must(t, err)
	l, err = dialLeaf(t, h, user, next)
	must(t, err)
	l.closed(t)
	polltest.Eventually(t, "an expired token is refused", func() bool { // it is good until the end of its second
		l, err := dialLeaf(t, h, user, next)
		_ = l.Close()
		return err != nil
	})
}
