package natsd

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/petiole-io/petiole/internal/lab/pki"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/porttest"
)

// hubs are hubs with one port at different addresses, whose certificates are of one authority.
type hubs struct {
	authority *pki.Authority
	port      int
}

func newHubs(t *testing.T) *hubs {
	t.Helper()
	authority, err := pki.NewAuthority(t.TempDir(), "ca")
	must(t, err)
	return &hubs{authority: authority, port: porttest.Port(t)}
}

// start starts a hub at a loopback address, with a certificate for a name.
func (h *hubs) start(t *testing.T, ip, name string) (stop func()) {
	t.Helper()
	pair, err := h.authority.Issue(t.TempDir(), "hub", pki.Subject{Name: "hub", Hosts: []string{name}})
	must(t, err)
	cert, err := tls.LoadX509KeyPair(pair.CertFile, pair.KeyFile)
	must(t, err)
	hub := startRaw(t, &server.Options{
		ServerName: "hub-" + ip, Host: "127.0.0.1", Port: -1,
		LeafNode: server.LeafNodeOpts{Host: ip, Port: h.port, TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, TLSTimeout: 10},
	})
	return func() { stopRaw(hub) }
}

// leaf starts a leaf that reaches the hub by a name, with the addresses of a folder.
func (h *hubs) leaf(t *testing.T, dir, name string) (*Server, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	s, err := Start(t.Context(), Config{
		Site: "plant-a", File: tlsLeafConf(t, fmt.Sprintf("%s:%d", name, h.port), h.authority.CertFile),
		AddressFile: filepath.Join(dir, "addresses.json"), Log: zap.New(core),
	})
	must(t, err)
	t.Cleanup(s.Stop)
	return s, logs
}

func (h *hubs) awaitHub(t *testing.T, s *Server, ip string) {
	t.Helper()
	polltest.Eventually(t, "connection to the hub at "+ip, func() bool {
		if s.HubConnection() == 0 {
			return false
		}
		z, err := s.server().Leafz(nil)
		return err == nil && len(z.Leafs) == 1 && z.Leafs[0].IP == ip
	})
}

func logged(logs *observer.ObservedLogs, part string) bool {
	return slices.ContainsFunc(logs.All(), func(e observer.LoggedEntry) bool { return strings.Contains(e.Message, part) })
}

// TestLastGoodAddress starts a leaf while DNS fails, lets the hub move, and has DNS name another host: the
// hub is reached each time, at its last address if there is no other way.
func TestLastGoodAddress(t *testing.T) {
	t.Parallel()
	h, dir := newHubs(t), t.TempDir()
	const name = "moves.test"
	stopFirst := h.start(t, "127.0.0.2", name)
	dns.Set(name, "127.0.0.2")
	s, _ := h.leaf(t, dir, name)
	h.awaitHub(t, s, "127.0.0.2")
	s.Stop()

	dns.Set(name, "") // no server answers, as on a gateway that starts without its provider's
	s, logs := h.leaf(t, dir, name)
	h.awaitHub(t, s, "127.0.0.2")
	if !logged(logs, "last good address is tried") {
		t.Error("that DNS fails is not logged")
	}

	stopFirst()
	stopSecond := h.start(t, "127.0.0.3", name)
	dns.Set(name, "127.0.0.3")
	h.awaitHub(t, s, "127.0.0.3")

	h.start(t, "127.0.0.4", "others.test")
	dns.Set(name, "127.0.0.4")
	stopSecond()
	polltest.Eventually(t, "the end of the connection", func() bool { return s.HubConnection() == 0 })
	h.start(t, "127.0.0.3", name)
	h.awaitHub(t, s, "127.0.0.3")
	data, err := os.ReadFile(filepath.Join(dir, "addresses.json"))
	must(t, err)
	if got := map[string]string{}; json.Unmarshal(data, &got) != nil || got[name] != "127.0.0.3" {
		t.Errorf("stored: %s", data)
	}
}

// TestLastAddressIsVerified finds another host at the last address while DNS fails: it is refused, since
// its certificate is compared with the name, and the hub is reached when DNS answers.
func TestLastAddressIsVerified(t *testing.T) {
	t.Parallel()
	h, dir := newHubs(t), t.TempDir()
	const name = "verified.test"
	must(t, os.WriteFile(filepath.Join(dir, "addresses.json"), []byte(`{"`+name+`":"127.0.0.4"}`), 0o600))
	h.start(t, "127.0.0.4", "others.test")
	dns.Set(name, "")
	s, logs := h.leaf(t, dir, name)
	polltest.Eventually(t, "a refusal", func() bool { return logged(logs, "certificate is valid for others.test, not "+name) })
	if s.HubConnection() != 0 {
		t.Error("connected to another host")
	}
	h.start(t, "127.0.0.2", name)
	dns.Set(name, "127.0.0.2")
	h.awaitHub(t, s, "127.0.0.2")
}

// TestAddressesThatCannotBeRead: the leaf starts without the addresses of a damaged file.
func TestAddressesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for _, content := range []string{"", "{", `{"hub.test":"nowhere"}`, `[]`} {
		file := filepath.Join(t.TempDir(), "addresses.json")
		must(t, os.WriteFile(file, []byte(content), 0o600))
		core, logs := observer.New(zap.WarnLevel)
		if a := openAddresses(file, zap.New(core)); a.lastOf("hub.test") != "" || logs.Len() != 1 {
			t.Errorf("%q: %q, %d lines logged", content, a.lastOf("hub.test"), logs.Len())
		}
	}
}

// TestChooseAddress: DNS comes first, and the last good address in turn with it while the hub is not
// reached.
func TestChooseAddress(t *testing.T) {
	t.Parallel()
	const last, other = "203.0.113.1", "203.0.113.2"
	for what, c := range map[string]struct {
		h    hubHost
		dns  []string
		want string
	}{
		"nothing known":               {hubHost{}, nil, ""},
		"first start":                 {hubHost{}, []string{other}, other},
		"DNS fails":                   {hubHost{last: last}, nil, last},
		"DNS fails on":                {hubHost{last: last, tried: last}, nil, last},
		"another address":             {hubHost{last: last}, []string{other}, other},
		"it was not reached there":    {hubHost{last: last, tried: other}, []string{other}, last},
		"nor at the last one":         {hubHost{last: last, tried: last}, []string{other}, other},
		"DNS has the last one":        {hubHost{last: last, tried: last}, []string{last}, last},
		"never reached, DNS fails":    {hubHost{tried: other}, nil, ""},
		"never reached, DNS is there": {hubHost{tried: other}, []string{other}, other},
	} {
		if ip, ok := c.h.choose(c.dns); ip != c.want || ok != (c.want != "") {
			t.Errorf("%s: %q, want %q", what, ip, c.want)
		}
	}
}

// TestNameBehindAProxy: the HTTP proxy is asked for a hub whose name only it can look up.
func TestNameBehindAProxy(t *testing.T) {
	t.Parallel()
	box := natstest.StartProxy(t, "", "")
	box.Refuse(true)
	proxy, err := url.Parse(box.URL)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), polltest.Limit)
	defer cancel()
	_, err = DialHub(ctx, HubConfig{
		URL: &url.URL{Scheme: "tls", Host: "hub.invalid:7422"}, Proxy: proxy, Site: "plant-a",
		Sign: func([]byte) ([]byte, error) { return nil, nil },
	})
	if err == nil || !strings.Contains(err.Error(), "proxy CONNECT failed") {
		t.Errorf("the proxy was not asked: %v", err)
	}
	conf := tlsLeafConf(t, net.JoinHostPort("hub.invalid", "7422"), newHubs(t).authority.CertFile)
	data, err := os.ReadFile(conf)
	must(t, err)
	must(t, os.WriteFile(conf, []byte(strings.Replace(string(data), "{ url:", fmt.Sprintf("{ proxy { url: %q }, url:", proxy), 1)), 0o600))
	core, logs := observer.New(zap.InfoLevel)
	s, err := Start(t.Context(), Config{Site: "plant-a", File: conf, Log: zap.New(core)})
	must(t, err)
	t.Cleanup(s.Stop)
	polltest.Eventually(t, "the proxy's answer", func() bool { return logged(logs, "proxy CONNECT failed") })
}
