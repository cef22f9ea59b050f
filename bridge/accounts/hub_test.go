package accounts_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"go.uber.org/goleak"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// leafConn is a leaf node connection that keeps to no permission: what a nats-server does not
// send because it was told so, this sends.
type leafConn struct {
	net.Conn
	in *bufio.Reader
}

// errClosed reports that the hub has closed the connection, with the error it sent.
var errClosed = errors.New("the hub closed the connection")

// dialLeaf connects as a leaf node with a user JWT, and returns the hub's error if it is refused.
func dialLeaf(t *testing.T, h *natstest.OperatorHub, token string, u natstest.User) (*leafConn, error) {
	t.Helper()
	conn, err := net.Dial("tcp", h.LeafAddr())
	must(t, err)
	return startLeaf(t, conn, token, u)
}

// startLeaf is dialLeaf on a connection to a listener of the hub.
func startLeaf(t *testing.T, conn net.Conn, token string, u natstest.User) (*leafConn, error) {
	t.Helper()
	t.Cleanup(func() { _ = conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(polltest.Limit)))
	l := &leafConn{Conn: conn, in: bufio.NewReader(conn)}
	line, err := l.in.ReadString('\n')
	must(t, err)
	var info struct{ Nonce string }
	must(t, json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &info))
	pair, err := nkeys.FromSeed([]byte(u.Seed))
	must(t, err)
	sig, err := pair.Sign([]byte(info.Nonce))
	must(t, err)
	connect, err := json.Marshal(map[string]any{
		"jwt": token, "sig": base64.RawURLEncoding.EncodeToString(sig), "name": "raw", "server_id": u.Public, "headers": true, "version": "2.15.2",
	})
	must(t, err)
	l.send(t, "CONNECT %s\r\n", connect)
	return l, l.processed(t)
}

func (l *leafConn) send(t *testing.T, format string, args ...any) {
	t.Helper()
	if _, err := fmt.Fprintf(l, format, args...); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Logf("send: %v", err) // processed reports what the hub said
	}
}

// publish sends a message with a reply subject.
func (l *leafConn) publish(t *testing.T, subject, reply, body string) {
	t.Helper()
	l.send(t, "LMSG %s %s %d\r\n%s\r\n", subject, reply, len(body), body)
}

// processed waits until the hub has dealt with what was sent, or closed the connection.
func (l *leafConn) processed(t *testing.T) error {
	t.Helper()
	l.send(t, "PING\r\n")
	said := ""
	for {
		line, err := l.in.ReadString('\n')
		switch {
		case err != nil:
			return fmt.Errorf("%w: %s", errClosed, said)
		case strings.HasPrefix(line, "PONG"):
			return nil
		case strings.HasPrefix(line, "PING"):
			l.send(t, "PONG\r\n")
		case strings.HasPrefix(line, "-ERR"):
			said = strings.TrimSpace(line)
		}
	}
}

// receive returns the protocol line of the next message.
func (l *leafConn) receive(t *testing.T) string {
	t.Helper()
	for {
		line, err := l.in.ReadString('\n')
		must(t, err)
		if strings.HasPrefix(line, "LMSG") {
			return line
		}
	}
}

// closed waits until the hub closes the connection.
func (l *leafConn) closed(t *testing.T) {
	t.Helper()
	for {
		if _, err := l.in.ReadString('\n'); err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				t.Fatal("the hub keeps the connection open")
			}
			return
		}
	}
}

// redial connects as soon as the hub has noticed that the connection before is closed.
func redial(t *testing.T, h *natstest.OperatorHub, site string, u natstest.User) *leafConn {
	t.Helper()
	return redialBy(t, h, site, u, dialLeaf)
}

// leafDialer is dialLeaf, or reaches another listener.
type leafDialer func(t *testing.T, h *natstest.OperatorHub, token string, u natstest.User) (*leafConn, error)

func redialBy(t *testing.T, h *natstest.OperatorHub, site string, u natstest.User, dial leafDialer) (l *leafConn) {
	t.Helper()
	polltest.NoError(t, "the hub accepts a leaf of "+site, func(context.Context) (err error) {
		l, err = dial(t, h, token(t, h, site, u), u)
		return err
	})
	return l
}

func token(t *testing.T, h *natstest.OperatorHub, site string, u natstest.User) string {
	t.Helper()
	k, err := h.Keys.GatewayToken(site, u.Public, "")
	must(t, err)
	return k
}

func hubStreams(t *testing.T, h *natstest.OperatorHub, nc *nats.Conn, sites ...string) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.NewWithDomain(nc, streams.HubDomain)
	must(t, err)
	must(t, streams.Ensure(t.Context(), js, streams.HubStreams(streams.HubLimits{})))
	for _, s := range sites {
		must(t, streams.Ensure(t.Context(), js, streams.SiteStreams(s, streams.SiteLimits{})))
		must(t, streams.EnsureConsumer(t.Context(), js, streams.Desired, streams.SiteConsumer(s)))
	}
	return js
}

// TestASiteReachesNothingOfAnother has a leaf of plant-b that keeps to no rule try plant-a's
// subjects and the hub's JetStream. The account alone prevents it; the permissions of the
// gateway close the connection.
func TestASiteReachesNothingOfAnother(t *testing.T) {
	h := natstest.StartOperatorHub(t)
	siteReachesNothing(t, h, map[string]bool{"account": true, "permissions": false}, dialLeaf)
}

// siteReachesNothing tries it without permissions and with them, as restrictions says.
func siteReachesNothing(t *testing.T, h *natstest.OperatorHub, restrictions map[string]bool, dial leafDialer) {
	t.Helper()
	b := natstest.NewUser(t)
	h.Store(t, accounts.Site{Name: "plant-a", Gateways: []string{natstest.NewUser(t).Public}})
	bridge := h.Connect(t, accounts.BridgeCreds)
	js := hubStreams(t, h, bridge, "plant-a", "plant-b")
	ref := streams.Ref{Resource: "configmaps", Namespace: "default", Name: "x"}
	_, err := streams.Put(t.Context(), js, streams.DesiredSubject("plant-a", ref), streams.Message{Ref: ref, Op: streams.OpPut, Object: []byte(`{"kind":"ConfigMap"}`)})
	must(t, err)
	for name, unrestricted := range restrictions {
		t.Run(name, func(t *testing.T) {
			claims, err := h.Keys.Claims(accounts.Site{Name: "plant-b", Gateways: []string{b.Public}})
			must(t, err)
			if unrestricted {
				for _, s := range claims[0].SigningKeys {
					s.(*jwt.UserScope).Template.Permissions = jwt.Permissions{}
				}
			}
			must(t, h.Resolver.Store(t.Context(), claims[0]))
			tryOther(t, bridge, unrestricted, func() *leafConn { return redialBy(t, h, "plant-b", b, dial) })
			consumer, err := js.Consumer(t.Context(), streams.Desired, "plant-a")
			must(t, err)
			if i := consumer.CachedInfo(); i.NumPending != 1 || i.NumAckPending != 0 {
				t.Errorf("plant-a's consumer has %d pending, %d unacknowledged, want 1 and 0", i.NumPending, i.NumAckPending)
			}
		})
	}
}

func tryOther(t *testing.T, bridge *nats.Conn, unrestricted bool, redial func() *leafConn) {
	t.Helper()
	heard, err := bridge.SubscribeSync(">")
	must(t, err)
	defer func() { must(t, heard.Unsubscribe()) }()
	must(t, bridge.Flush())
	for _, subject := range []string{
		"desired.plant-a._._.pods.default.x", "desired.plant-b._._.pods.default.x", "reported.plant-a._._.pods.default.x", "telemetry.plant-a.x", "presence.plant-a", "request.plant-a.token",
		"sync.plant-a", "command.plant-a.default.pump", "$JS.ACK.DESIRED.plant-a.1.1.1.1.1",
		streams.PullSubject("plant-a"), streams.ResetSubject("plant-a"), "$JS.API.CONSUMER.MSG.NEXT.DESIRED.plant-a", "$JS.hub.API.STREAM.INFO.DESIRED",
		"$JS.FABRIC.API.STREAM.INFO.DESIRED", "$JS.hub.API.DIRECT.GET.DESIRED", "$SYS.REQ.CLAIMS.LIST", "_INBOX.x",
	} {
		l := redial()
		l.send(t, "LS+ _INBOX_plant-b.>\r\n")
		l.publish(t, subject, "_INBOX_plant-b.1", "forged")
		// The server checks no permission for acknowledgements (docs/upstream.md, 17).
		if err := l.processed(t); err == nil && !unrestricted && !strings.HasPrefix(subject, "$JS.ACK.") {
			t.Errorf("publishing %s does not end the connection", subject)
		}
		_ = l.Close()
	}
	l := redial()
	l.send(t, "LS+ sync.plant-a\r\n")
	if err := l.processed(t); err == nil && !unrestricted {
		t.Error("subscribing sync.plant-a does not end the connection")
	}
	_ = l.Close()
	l = redial()
	l.send(t, "LS+ >\r\n")
	must(t, l.processed(t))
	for _, subject := range []string{"desired.plant-b.x", "sync.plant-a", "reported.plant-b.x", "_INBOX.x", "presence.plant-b", "command.plant-a.x.x"} {
		must(t, bridge.Publish(subject, []byte("theirs")))
	}
	must(t, bridge.Publish(streams.SyncSubject("plant-b"), []byte("own")))
	if got := l.receive(t); !strings.HasPrefix(got, "LMSG "+streams.SyncSubject("plant-b")) {
		t.Errorf("the first that plant-b receives is %s", got)
	}
	_ = l.Close()
	// What it may do is heard after all that.
	l = redial()
	defer l.Close()
	l.publish(t, streams.PresenceSubject("plant-b"), "", "own")
	must(t, l.processed(t))
	for {
		m, err := heard.NextMsg(polltest.Limit)
		must(t, err)
		if string(m.Data) == "own" {
			return
		}
		if string(m.Data) == "forged" {
			t.Errorf("plant-b reaches %s in FABRIC", m.Subject)
		}
	}
}

// TestSecondConnectionIsRefused: one gateway, one connection. While a gateway is replaced there
// are two.
func TestSecondConnectionIsRefused(t *testing.T) {
	h := natstest.StartOperatorHub(t)
	old, next := natstest.NewUser(t), natstest.NewUser(t)
	h.Store(t, accounts.Site{Name: "plant-a", Gateways: []string{old.Public}})
	first, err := dialLeaf(t, h, token(t, h, "plant-a", old), old)
	must(t, err)
	if _, err := dialLeaf(t, h, token(t, h, "plant-a", old), old); err == nil || !strings.Contains(err.Error(), "maximum account active connections") {
		t.Errorf("a second holder of the key: %v", err)
	}
	if _, err := dialLeaf(t, h, token(t, h, "plant-a", next), next); err == nil {
		t.Error("a gateway that the Site does not list is let in")
	}
	must(t, first.processed(t))
	// The rotation: both are let in, then the old one is taken out of the list.
	h.Store(t, accounts.Site{Name: "plant-a", Gateways: []string{old.Public, next.Public}})
	must(t, first.processed(t)) // is not disturbed
	second, err := dialLeaf(t, h, token(t, h, "plant-a", next), next)
	must(t, err)
	h.Store(t, accounts.Site{Name: "plant-a", Gateways: []string{next.Public}})
	first.closed(t)
	must(t, second.processed(t))
	if _, err := dialLeaf(t, h, token(t, h, "plant-a", old), old); err == nil {
		t.Error("the old gateway is let in")
	}
}

// TestSecondHolderOfAKey has somebody with a copy of the gateway's key in while the real gateway
// is connected, as between two connections of the real one with room for both: through the hub
// he neither reaches the real gateway's store and devices nor hears what is sent to it.
func TestSecondHolderOfAKey(t *testing.T) {
	h := natstest.StartOperatorHub(t)
	u, next := natstest.NewUser(t), natstest.NewUser(t)
	h.Store(t, accounts.Site{Name: "plant-a", Gateways: []string{u.Public, next.Public}})
	gateway, err := dialLeaf(t, h, token(t, h, "plant-a", next), next)
	must(t, err)
	for _, subject := range []string{"desired.>", "$JS.plant-a.API.>", "command.plant-a.*.*", "reported.>", "$JS.API.>"} {
		gateway.send(t, "LS+ %s\r\n", subject)
	}
	must(t, gateway.processed(t))
	for _, subject := range []string{
		"desired.plant-a.plant-a-1._.pods.default.evil", "$JS.plant-a.API.STREAM.PURGE.SITE_DESIRED", "$JS.plant-a.API.STREAM.DELETE.SITE_REPORTED",
		"$JS.API.STREAM.PURGE.SITE_DESIRED", "command.plant-a.default.pump", "_INBOX_plant-a.guessed", "sync.plant-a", "local.reported.x",
	} {
		l := redial(t, h, "plant-a", u)
		l.publish(t, subject, "_INBOX_plant-a.1", "forged")
		if err := l.processed(t); err == nil {
			t.Errorf("publishing %s does not end the connection", subject)
		}
	}
	bridge := h.Connect(t, accounts.BridgeCreds)
	gateway.send(t, "LS+ %s\r\n", streams.SyncSubject("plant-a"))
	must(t, gateway.processed(t))
	must(t, bridge.Publish(streams.SyncSubject("plant-a"), []byte("after")))
	if got := gateway.receive(t); !strings.HasPrefix(got, "LMSG "+streams.SyncSubject("plant-a")) {
		t.Errorf("the real gateway receives %s", got)
	}
}

// TestRevokedSiteIsGone takes a site's gateway out of the list, and deletes a site: both lose
// the live connection within 10 s, are not let in again, and can be given back.
func TestRevokedSiteIsGone(t *testing.T) {
	h := natstest.StartOperatorHub(t)
	u, other := natstest.NewUser(t), natstest.NewUser(t)
	r := startController(t, h.Keys, h.Resolver, &siteSet{sites: map[string]accounts.Site{}})
	r.apply(accounts.Site{Name: "plant-b", Gateways: []string{other.Public}})
	r.reaches(t, "plant-b", accounts.Stored)
	neighbour, err := dialLeaf(t, h, token(t, h, "plant-b", other), other)
	must(t, err)
	site := accounts.Site{Name: "plant-a", Gateways: []string{u.Public}, Operators: []string{other.Public}}
	for name, revoke := range map[string]func(){
		"revoked": func() { r.apply(accounts.Site{Name: "plant-a"}) },
		"deleted": func() { r.remove("plant-a") },
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			r.apply(site)
			r.reaches(t, "plant-a", accounts.Stored)
			l := redial(t, h, "plant-a", u)
			t.Logf("MEASURED applied → connected: %s", time.Since(start).Round(time.Millisecond))
			start = time.Now()
			revoke()
			l.closed(t)
			took := time.Since(start)
			t.Logf("MEASURED %s → gone: %s", name, took.Round(time.Millisecond))
			if took > 10*time.Second {
				t.Errorf("gone after %s, want 10 s at most", took)
			}
			for range 3 {
				if _, err := dialLeaf(t, h, token(t, h, "plant-a", u), u); err == nil {
					t.Fatal("the site is let in again")
				}
			}
			must(t, neighbour.processed(t))
			if name == "deleted" {
				polltest.Eventually(t, "the hub has the accounts SYS, FABRIC and that of plant-b", func() bool {
					list, err := h.Resolver.List(t.Context())
					must(t, err)
					return len(list) == 3
				})
			}
		})
	}
	r.apply(site)
	redial(t, h, "plant-a", u)
}

// TestUsersOfTheHub: what a gateway has is of no use at the client listener, and the bridge's
// user of the system account may change accounts and nothing else.
func TestUsersOfTheHub(t *testing.T) {
	h := natstest.StartOperatorHub(t)
	u := natstest.NewUser(t)
	h.Store(t, accounts.Site{Name: "plant-a", Gateways: []string{u.Public}})
	if nc, err := nats.Connect(h.URL(), nats.UserCredentials(h.GatewayCreds(t, "plant-a", u))); err == nil {
		nc.Close()
		t.Error("a gateway connects as a client")
	}
	// An account that somebody else signed, and one that was signed by no signing key.
	stranger, err := nkeys.CreateOperator()
	must(t, err)
	operator, err := os.ReadFile(h.File(accounts.OperatorKeyFile))
	must(t, err)
	identity, err := nkeys.FromSeed([]byte(strings.TrimSpace(string(operator))))
	must(t, err)
	system := h.Connect(t, accounts.SystemCreds)
	for name, key := range map[string]nkeys.KeyPair{"stranger": stranger, "identity": identity} {
		c, err := h.Keys.Claims(accounts.Site{Name: "plant-b", Gateways: []string{u.Public}})
		must(t, err)
		encoded, err := c[0].Encode(key)
		must(t, err)
		_, err = system.Request("$SYS.REQ.CLAIMS.UPDATE", []byte(encoded), polltest.Limit)
		must(t, err)
		// nats-server stores what a stranger has signed, and does not use it.
		if _, err := dialLeaf(t, h, token(t, h, "plant-b", u), u); err == nil {
			t.Errorf("an account signed by %s is served", name)
		}
	}
	limited := h.Connect(t, accounts.AccountsCreds)
	denied := make(chan error, 10)
	limited.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { denied <- err })
	for _, subject := range []string{"$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER." + limited.ConnectedServerId() + ".RELOAD", "$SYS.REQ.SERVER.PING.CONNZ"} {
		must(t, limited.PublishRequest(subject, limited.NewInbox(), nil))
		select {
		case err := <-denied:
			if !errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("%s: %v", subject, err)
			}
		case <-time.After(polltest.Limit):
			t.Errorf("the bridge's user of the system account may send %s", subject)
		}
	}
	pair, err := nkeys.CreateAccount()
	must(t, err)
	unknown, err := pair.PublicKey()
	must(t, err)
	if c, err := h.Resolver.Lookup(t.Context(), unknown); c != nil || err != nil {
		t.Errorf("an account that does not exist: %v, %v", c, err)
	}
}
