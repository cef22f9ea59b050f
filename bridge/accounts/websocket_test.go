package accounts_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
)

// webSocketConn is a connection whose bytes are the messages of a WebSocket.
type webSocketConn struct {
	net.Conn
	ws *websocket.Conn
	in io.Reader
}

func (c *webSocketConn) Write(p []byte) (int, error) {
	return len(p), c.ws.WriteMessage(websocket.BinaryMessage, p)
}

func (c *webSocketConn) Read(p []byte) (int, error) {
	for {
		if c.in == nil {
			_, in, err := c.ws.NextReader()
			if err != nil {
				return 0, err
			}
			c.in = in
		}
		n, err := c.in.Read(p)
		if err == io.EOF {
			c.in = nil
			err = nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// dialWebSocketLeaf is dialLeaf at the hub's WebSocket listener.
func dialWebSocketLeaf(t *testing.T, h *natstest.OperatorHub, token string, u natstest.User) (*leafConn, error) {
	t.Helper()
	authority, err := os.ReadFile(h.AuthorityFile())
	must(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	d := websocket.Dialer{TLSClientConfig: &tls.Config{RootCAs: roots}, HandshakeTimeout: 10 * time.Second}
	ws, answer, err := d.DialContext(t.Context(), h.WebSocketURL()+"/leafnode", nil)
	must(t, err)
	_ = answer.Body.Close() // has been read
	return startLeaf(t, &webSocketConn{Conn: ws.NetConn(), ws: ws}, token, u)
}

// TestWebSocketGivesNoOtherRights: the hub's WebSocket listener lets in whom the one for leaf nodes
// does, with the same permissions, and keys of gateways and of join tokens are none of clients.
func TestWebSocketGivesNoOtherRights(t *testing.T) {
	h := natstest.StartTLSOperatorHub(t, "127.0.0.1")
	siteReachesNothing(t, h, map[string]bool{"account": true, "permissions": false}, dialWebSocketLeaf)
	gateway, operator, joining := natstest.NewUser(t), natstest.NewUser(t), natstest.NewUser(t)
	j := accounts.JoinToken{Key: joining.Public, Expires: time.Now().Add(time.Hour)}
	h.Store(t, accounts.Site{Name: "plant-b", Gateways: []string{gateway.Public}, Operators: []string{operator.Public}, Join: &j})
	connect := func(token string, u natstest.User) (*nats.Conn, error) {
		return nats.Connect(h.WebSocketURL(), nats.UserCredentials(natstest.WriteCreds(t, token, u)), nats.RootCAs(h.AuthorityFile()))
	}
	asOperator, err := h.Keys.OperatorToken("plant-b", operator.Public, "")
	must(t, err)
	var nc *nats.Conn
	polltest.Eventually(t, "an operator is let in", func() bool {
		nc, err = connect(asOperator, operator)
		return err == nil
	})
	defer nc.Close()
	bridge := h.Connect(t, accounts.BridgeCreds)
	heard, err := bridge.SubscribeSync(">")
	must(t, err)
	must(t, bridge.Flush())
	for _, subject := range []string{"reported.plant-b.x", "desired.plant-b.x", "sync.plant-b", "request.plant-b.token", "$JS.API.STREAM.PURGE.DESIRED", "$SYS.REQ.CLAIMS.LIST"} {
		must(t, nc.Publish(subject, []byte("forged")))
	}
	must(t, nc.Flush())
	must(t, bridge.Publish("sync.nobody", []byte("own")))
	if m, err := heard.NextMsg(polltest.Limit); err != nil || string(m.Data) != "own" {
		t.Errorf("the first that is heard in FABRIC: %v, %v", m, err)
	}
	asGateway, err := h.Keys.GatewayToken("plant-b", gateway.Public, "")
	must(t, err)
	asJoining, err := h.Keys.JoinUserToken("plant-b", j, "")
	must(t, err)
	for who, c := range map[string]struct {
		token string
		user  natstest.User
	}{"gateway": {asGateway, gateway}, "join token": {asJoining, joining}} {
		if nc, err := connect(c.token, c.user); err == nil {
			nc.Close()
			t.Errorf("the key of a %s is let in as a client", who)
		}
	}
}
