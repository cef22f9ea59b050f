package accounts_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
)

// TestSubscriptionsAreBounded: a site that subscribes to 300,000 subjects has no more than its limit of
// them at the hub, and another site connects and publishes meanwhile.
func TestSubscriptionsAreBounded(t *testing.T) {
	const tried, limit = 300_000, 1000
	h := natstest.StartOperatorHub(t)
	greedy, other := natstest.NewUser(t), natstest.NewUser(t)
	h.Store(t, accounts.Site{Name: "plant-b", Gateways: []string{greedy.Public}})
	h.Store(t, accounts.Site{Name: "plant-a", Gateways: []string{other.Public}})
	system := h.Connect(t, accounts.SystemCreds)
	subscriptions := func() int {
		t.Helper()
		m, err := system.Request("$SYS.REQ.SERVER.PING.SUBSZ", nil, polltest.Limit)
		must(t, err)
		var answer struct {
			Data struct {
				Subscriptions int `json:"num_subscriptions"`
			} `json:"data"`
		}
		must(t, json.Unmarshal(m.Data, &answer))
		return answer.Data.Subscriptions
	}
	l := redial(t, h, "plant-b", greedy)
	neighbour := redial(t, h, "plant-a", other)
	before := subscriptions()
	out := bufio.NewWriter(l)
	for i := range tried {
		// In its inbox, where it may subscribe.
		if _, err := out.WriteString("LS+ _INBOX_plant-b." + strconv.Itoa(i) + "\r\n"); err != nil {
			break // the hub has closed the connection
		}
	}
	_ = out.Flush()
	start := time.Now()
	neighbour.publish(t, "presence.plant-a", "", "{}")
	must(t, neighbour.processed(t))
	took := time.Since(start)
	ended := l.processed(t)
	added := subscriptions() - before
	t.Logf("MEASURED %d subscriptions tried, %d at the hub; the connection: %v; another site was answered after %s", tried, added, ended, took.Round(time.Millisecond))
	if added > limit {
		t.Errorf("the site has %d subscriptions at the hub, the limit is %d", added, limit)
	}
}

// TestPlainTextAndOldTLSAreRefused has whoever listens on the line try to make the hub's listener for
// leaf nodes speak what he can read.
func TestPlainTextAndOldTLSAreRefused(t *testing.T) {
	h := natstest.StartTLSOperatorHub(t, "127.0.0.1")
	u := natstest.NewUser(t)
	h.Store(t, accounts.Site{Name: "plant-a", Gateways: []string{u.Public}})
	authority, err := os.ReadFile(h.AuthorityFile())
	must(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	for name, version := range map[string]uint16{"TLS 1.0": tls.VersionTLS10, "TLS 1.1": tls.VersionTLS11, "TLS 1.2": tls.VersionTLS12} {
		conn, err := net.Dial("tcp", h.LeafAddr())
		must(t, err)
		must(t, conn.SetDeadline(time.Now().Add(polltest.Limit)))
		// Before the handshake the hub sends INFO, and says there that TLS is required.
		for b := make([]byte, 1); b[0] != '\n'; {
			_, err := conn.Read(b)
			must(t, err)
		}
		err = tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", MinVersion: version, MaxVersion: version}).HandshakeContext(t.Context()) //nolint:gosec // old versions on purpose
		if ok := version >= tls.VersionTLS12; ok != (err == nil) {
			t.Errorf("%s: %v", name, err)
		}
		_ = conn.Close()
	}
	if _, err := dialLeaf(t, h, token(t, h, "plant-a", u), u); err == nil {
		t.Error("a gateway that speaks plain text is let in")
	}
}
