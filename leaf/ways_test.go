package leaf

import (
	"context"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/petiole-io/petiole/internal/lab/pki"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/porttest"
	"github.com/petiole-io/petiole/streams"
)

// TestWaysToTheHub runs a leaf on each way to the hub that docs/install.md lists beside TLS: it
// receives what is desired and reports, before and after a cut.
func TestWaysToTheHub(t *testing.T) {
	t.Parallel()
	for name, newWay := range map[string]func(*testing.T) (*site, context.Context){
		"WebSocket": webSocketSite, "ReverseProxy": reverseProxySite, "HTTPProxy": proxySite,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, ctx := newWay(t)
			respond(t, s)
			s.start(t, ctx)
			s.works(t, ctx, 0)
			s.cut(t)
			putDesired(t, ctx, s, "away", 1)
			s.line.Restore()
			s.works(t, ctx, 1)
		})
	}
}

// works fails the test unless the site receives what is desired, and telemetry and reports arrive at
// the hub.
func (s *site) works(t *testing.T, ctx context.Context, round int) {
	t.Helper()
	for i := range 20 {
		putDesired(t, ctx, s, fmt.Sprintf("cm-%d", i), round)
	}
	s.record(t, ctx, round, 100)
	report := streams.Message{Ref: streams.Ref{Resource: "pods", Namespace: "default", Name: fmt.Sprintf("pod-%d", round), Node: "plant-a-1"}, Op: streams.OpPut, Object: []byte("{}")}
	if _, err := streams.Put(ctx, s.js, streams.LocalReportedSubject(report.Ref), report); err != nil {
		t.Fatal(err)
	}
	polltest.Eventually(t, "the objects are at the site", func() bool { return backlog(t, ctx, s) == 0 && same(t, ctx, s) })
	polltest.Eventually(t, "the record is at the hub", func() bool { return count(t, ctx, s.hub, streams.Telemetry("plant-a")) == uint64(round+1) })
	polltest.Eventually(t, "the report is at the hub", func() bool { return count(t, ctx, s.hub, streams.Reported("plant-a")) == uint64(round+1) })
}

// reach has the leaf connect through a line to addr, with these settings of its remote.
func (s *site) reach(t *testing.T, scheme, addr, settings string) {
	t.Helper()
	before := fmt.Sprintf(`url: "nats-leaf://%s"`, s.line.Addr())
	s.line = natstest.NewLine(t, addr)
	s.configure(t, before, fmt.Sprintf(`url: "%s://%s", %s`, scheme, s.line.Addr(), settings))
}

// webSocketSite reaches the WebSocket listener of the hub, compressed.
func webSocketSite(t *testing.T) (*site, context.Context) {
	authority, pair := hubCertificate(t, "127.0.0.1")
	listen := porttest.Addr(t)
	s, ctx := newSiteAt(t, fmt.Sprintf("websocket { listen: %q, compression: true, tls { cert_file: %q, key_file: %q } }", listen, pair.CertFile, pair.KeyFile))
	s.reach(t, "wss", listen, fmt.Sprintf("ws_compression: true, tls { ca_file: %q }", authority))
	return s, ctx
}

// reverseProxySite reaches a reverse proxy that ends TLS in front of the hub.
func reverseProxySite(t *testing.T) (*site, context.Context) {
	listen := porttest.Addr(t)
	s, ctx := newSiteAt(t, fmt.Sprintf("websocket { listen: %q, compression: true, no_tls: true }", listen))
	proxy := httptest.NewTLSServer(httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: listen}))
	t.Cleanup(proxy.Close)
	authority := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: proxy.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	s.reach(t, "wss", proxy.Listener.Addr().String(), fmt.Sprintf("ws_compression: true, tls { ca_file: %q }", authority))
	return s, ctx
}

// proxySite reaches the hub by an HTTP proxy that wants a password.
func proxySite(t *testing.T) (*site, context.Context) {
	s, ctx := newSite(t)
	proxy := natstest.StartProxy(t, "gateway", "secret")
	s.reach(t, "nats-leaf", s.hubServer.LeafAddr(), fmt.Sprintf("proxy { url: %q, username: gateway, password: secret }", proxy.URL))
	return s, ctx
}

// hubCertificate creates an authority, of which it returns the file, and a certificate of it for hosts.
func hubCertificate(t *testing.T, hosts ...string) (authorityFile string, pair pki.Pair) {
	t.Helper()
	dir := t.TempDir()
	authority, err := pki.NewAuthority(dir, "ca")
	if err == nil {
		pair, err = authority.Issue(dir, "hub", pki.Subject{Name: "hub", Hosts: hosts})
	}
	if err != nil {
		t.Fatal(err)
	}
	return authority.CertFile, pair
}
