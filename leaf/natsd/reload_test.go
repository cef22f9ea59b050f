package natsd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/internal/lab/pki"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/porttest"
)

// rotation is a leaf that reaches a hub whose authority is replaced.
type rotation struct {
	conf, bundle, listen string
	before, after        *pki.Authority
	hub                  *natstest.Hub
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newRotation(t *testing.T, names ...string) *rotation {
	t.Helper()
	r := &rotation{listen: porttest.Addr(t), bundle: filepath.Join(t.TempDir(), "ca.crt")}
	for _, a := range []**pki.Authority{&r.before, &r.after} {
		authority, err := pki.NewAuthority(t.TempDir(), "ca")
		must(t, err)
		*a = authority
	}
	dir := t.TempDir()
	pair, err := r.before.Issue(dir, "hub", pki.Subject{Name: "hub", Hosts: append(names, "127.0.0.1")})
	must(t, err)
	r.hub = natstest.StartHubWith(t, fmt.Sprintf("websocket { listen: %q, tls { cert_file: %q, key_file: %q } }", r.listen, pair.CertFile, pair.KeyFile), "plant-a")
	r.trust(t, r.before)
	r.conf = natstest.LeafConf(t, "plant-a", r.listen)
	r.edit(t, `url: "nats-leaf://`, fmt.Sprintf(`tls { ca_file: %q }, url: "wss://`, r.bundle))
	return r
}

// trust writes the authorities that the leaf trusts.
func (r *rotation) trust(t *testing.T, authorities ...*pki.Authority) {
	t.Helper()
	var bundle []byte
	for _, a := range authorities {
		data, err := os.ReadFile(a.CertFile)
		must(t, err)
		bundle = append(bundle, data...)
	}
	must(t, os.WriteFile(r.bundle, bundle, 0o600))
}

func (r *rotation) edit(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(r.conf)
	must(t, err)
	if !strings.Contains(string(data), from) {
		t.Fatalf("the configuration has no %s", from)
	}
	must(t, os.WriteFile(r.conf, []byte(strings.Replace(string(data), from, to, 1)), 0o600))
}

// TestReload has a running server take a new authority and other settings: the connection to the hub
// stays unless its settings have changed, the leaf's own connection always, and streams are there.
func TestReload(t *testing.T) {
	t.Parallel()
	r := newRotation(t)
	s, nc := run(t, r.conf)
	js, err := jetstream.New(nc)
	must(t, err)
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
	must(t, err)
	works := func() {
		t.Helper()
		if _, err := js.Publish(t.Context(), "s", nil); err != nil {
			t.Errorf("a stream after a reload: %v", err)
		}
		if n := nc.Statistics.Reconnects; n != 0 {
			t.Errorf("the leaf's own connection was lost %d times", n)
		}
	}
	polltest.Eventually(t, "connection to the hub", func() bool { return s.HubConnection() != 0 })
	first := s.HubConnection()
	must(t, Reload(s))
	r.trust(t, r.before, r.after)
	r.edit(t, `ping_interval: "4s"`, `ping_interval: "5s"`)
	must(t, Reload(s))
	if s.HubConnection() != first {
		t.Error("a new authority ends the connection to the hub")
	}
	works()

	// The hub has a certificate of the new authority from now on.
	dir := t.TempDir()
	pair, err := r.after.Issue(dir, "hub", pki.Subject{Name: "hub", Hosts: []string{"127.0.0.1"}})
	must(t, err)
	conf, err := os.ReadFile(r.hub.Conf())
	must(t, err)
	var lines []string
	for line := range strings.Lines(string(conf)) {
		if strings.HasPrefix(line, "websocket") {
			line = fmt.Sprintf("websocket { listen: %q, tls { cert_file: %q, key_file: %q } }\n", r.listen, pair.CertFile, pair.KeyFile)
		}
		lines = append(lines, line)
	}
	r.hub.Stop()
	must(t, os.WriteFile(r.hub.Conf(), []byte(strings.Join(lines, "")), 0o600))
	r.hub.Start(t)
	polltest.Eventually(t, "connection to the hub with the new certificate", func() bool { id := s.HubConnection(); return id != 0 && id != first })
	works()

	// What nats-server cannot change in a remote is replaced.
	proxy := natstest.StartProxy(t, "", "")
	r.edit(t, `tls { ca_file`, fmt.Sprintf(`proxy { url: %q }, tls { ca_file`, proxy.URL))
	must(t, Reload(s))
	polltest.Eventually(t, "connection to the hub by the proxy", func() bool { return proxy.Connections() > 0 && s.HubConnection() != 0 })
	works()
}

// TestBadReload: what cannot be used names the file and the field and changes nothing.
func TestBadReload(t *testing.T) {
	t.Parallel()
	r := newRotation(t)
	s, nc := run(t, r.conf)
	polltest.Eventually(t, "connection to the hub", func() bool { return s.HubConnection() != 0 })
	first := s.HubConnection()
	good, err := os.ReadFile(r.conf)
	must(t, err)
	for name, c := range map[string]struct {
		from, to string
		want     []string
		restart  bool
	}{
		"syntax":                {`ping_max: 2`, `ping_max: {`, []string{r.conf}, false},
		"unknown field":         {`ping_max: 2`, `ping_maximum: 2`, []string{r.conf, "ping_maximum"}, false},
		"value":                 {`ping_interval: "4s"`, `ping_interval: "soon"`, []string{r.conf, "ping_interval", "soon"}, false},
		"missing CA":            {r.bundle, "/nowhere/ca.crt", []string{"/nowhere/ca.crt"}, false},
		"plain hub":             {`tls { ca_file: "` + r.bundle + `" }, url: "wss://` + r.listen, `url: "nats-leaf://hub.example.com:7422`, []string{r.conf, "use tls://"}, false},
		"another domain":        {`domain: "plant-a"`, `domain: "plant-b"`, []string{r.conf, "restart", "JetStreamDomain"}, true},
		"password in proxy.url": {`tls { ca_file`, `proxy { url: "http://u:hidden@127.0.0.1:3128" }, tls { ca_file`, []string{r.conf, "proxy.url"}, false},
	} {
		must(t, os.WriteFile(r.conf, good, 0o600))
		r.edit(t, c.from, c.to)
		err := Reload(s)
		if err == nil {
			t.Errorf("%s: reloaded", name)
			continue
		}
		t.Logf("%s: %v", name, err)
		if errors.Is(err, errNeedsRestart) != c.restart || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: %v", name, err)
		}
		for _, part := range c.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: the error %v does not have %q", name, err, part)
			}
		}
		if s.HubConnection() != first || nc.Statistics.Reconnects != 0 {
			t.Fatalf("%s: a connection has ended", name)
		}
	}
}
