package natsd

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/petiole-io/petiole/internal/lab/pki"
	"github.com/petiole-io/petiole/internal/polltest"
)

// startTLSHub starts a hub whose certificate is valid from now on, and returns its address and the
// file of its authority.
func startTLSHub(t *testing.T) (addr, authority string) {
	t.Helper()
	dir := t.TempDir()
	ca, err := pki.NewAuthority(dir, "ca")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(dir, "hub", pki.Subject{Name: "hub", Hosts: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(pair.CertFile, pair.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	hub, err := server.NewServer(&server.Options{
		ServerName: "hub", Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true,
		LeafNode: server.LeafNodeOpts{Host: "127.0.0.1", Port: -1, TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, TLSTimeout: 10},
	})
	if err != nil {
		t.Fatal(err)
	}
	hub.Start()
	t.Cleanup(func() { hub.Shutdown(); hub.WaitForShutdown() })
	if !hub.ReadyForConnections(time.Minute) {
		t.Fatal("the hub does not start")
	}
	z, err := hub.Varz(nil)
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", fmt.Sprint(z.LeafNode.Port)), ca.CertFile
}

// TestCertificateIsJudgedByTheGivenTime reaches a hub over TLS in 1970, and by a time that is known to
// have passed. The refusal has a name, and ends with the connection.
func TestCertificateIsJudgedByTheGivenTime(t *testing.T) {
	t.Parallel()
	addr, ca := startTLSHub(t)
	conf := tlsLeafConf(t, addr, ca)
	var now atomic.Int64 // seconds since 1970
	now.Store(12)
	core, logs := observer.New(zap.ErrorLevel)
	s, err := Start(t.Context(), Config{Site: "plant-a", File: conf, CertificateTimes: func() []time.Time { return []time.Time{time.Unix(now.Load(), 0)} }, Log: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	polltest.Eventually(t, "a refusal", func() bool { return CertificateRefused(s) != "" })
	if why := CertificateRefused(s); !strings.Contains(why, "not yet valid") || !strings.Contains(why, "1970-01-01T00:00:12Z is before") {
		t.Errorf("refused: %s", why)
	}
	polltest.Eventually(t, "the refusal in the log", func() bool {
		for _, l := range logs.All() {
			if strings.Contains(l.Message, "is before") && strings.Contains(l.Message, "the clock of this gateway says") {
				return true
			}
		}
		return false
	})
	now.Store(time.Now().Unix())
	polltest.Eventually(t, "connection to the hub", func() bool { return s.HubConnection() != 0 })
	polltest.Eventually(t, "no refusal", func() bool { return CertificateRefused(s) == "" })
}

// TestAWrongTimeCostsNoConnection has two times of which the first one is wrong, by a day or a
// century: the certificate is judged by the other one after a refusal.
func TestAWrongTimeCostsNoConnection(t *testing.T) {
	t.Parallel()
	addr, ca := startTLSHub(t)
	for _, off := range []time.Duration{-24 * time.Hour, 100 * 365 * 24 * time.Hour} {
		conf := tlsLeafConf(t, addr, ca)
		s, err := Start(t.Context(), Config{Site: "plant-a", File: conf, CertificateTimes: func() []time.Time {
			return []time.Time{time.Now().Add(off), time.Now()}
		}, Log: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Stop)
		polltest.Eventually(t, "connection to the hub", func() bool { return s.HubConnection() != 0 })
		if s.attempts.refusals.Load() == 0 {
			t.Errorf("%s: nothing was refused: the test has proved nothing", off)
		}
	}
}

// tlsLeafConf writes the configuration of a leaf that reaches the hub over TLS.
func tlsLeafConf(t *testing.T, addr, ca string) (path string) {
	t.Helper()
	dir := t.TempDir()
	path = filepath.Join(dir, "leaf.conf")
	if err := os.WriteFile(path, fmt.Appendf(nil, `
server_name: plant-a
jetstream { domain: plant-a, store_dir: %q }
leafnodes {
  reconnect: "100ms"
  remotes: [ { url: "tls://%s", tls { ca_file: %q, timeout: 10 } } ]
}
`, filepath.Join(dir, "js"), addr, ca), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
