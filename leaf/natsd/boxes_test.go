package natsd

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/petiole-io/petiole/internal/lab/pki"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
)

// TestFalseHubIsNamed meets a device that inspects TLS, and another host that DNS names: both are
// refused, with the issuer of the certificate and what to do.
func TestFalseHubIsNamed(t *testing.T) {
	t.Parallel()
	r := newRotation(t)
	_, port, err := net.SplitHostPort(r.listen)
	must(t, err)
	dns.Set("lies.test", "127.0.0.1")
	others, err := pki.NewAuthority(t.TempDir(), "others")
	must(t, err)
	for name, c := range map[string]struct {
		host, trusted string
		want          string
	}{
		"inspection": {"127.0.0.1", others.CertFile, "inspects TLS"},
		"lie":        {"lies.test", r.before.CertFile, "DNS has a wrong address"},
	} {
		data, err := os.ReadFile(c.trusted)
		must(t, err)
		block, _ := pem.Decode(data)
		authority, err := x509.ParseCertificate(block.Bytes)
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), polltest.Limit)
		_, err = DialHub(ctx, HubConfig{
			URL: &url.URL{Scheme: "wss", Host: net.JoinHostPort(c.host, port)}, Site: "plant-a", Authorities: []*x509.Certificate{authority},
			Sign: func([]byte) ([]byte, error) { return nil, nil },
		})
		cancel()
		if err == nil {
			t.Fatalf("%s: connected", name)
		}
		t.Logf("%s: %v: %s", name, err, Remedy(err))
		if !strings.Contains(err.Error(), `issued by "CN=ca`) || !strings.Contains(Remedy(err), c.want) {
			t.Errorf("%s: %v: %s: want the issuer and %q", name, err, Remedy(err), c.want)
		}
	}
}

// TestHubBehindTwoNames has two URLs in the remote, of which one at a time is dead.
func TestHubBehindTwoNames(t *testing.T) {
	t.Parallel()
	hub := natstest.StartHub(t, "plant-a")
	a, b := natstest.NewLine(t, hub.LeafAddr()), natstest.NewLine(t, hub.LeafAddr())
	r := &rotation{conf: natstest.LeafConf(t, "plant-a", a.Addr())}
	first := `"nats-leaf://` + a.Addr() + `"`
	r.edit(t, "url: "+first, "urls: [ "+first+", "+strings.Replace(first, a.Addr(), b.Addr(), 1)+" ]")
	a.Cut()
	s, _ := run(t, r.conf)
	var last uint64
	for _, lines := range [][2]*natstest.Line{{a, b}, {b, a}, {a, b}} {
		lines[1].Restore()
		lines[0].Cut()
		polltest.Eventually(t, "connection by the other name", func() bool {
			id := s.HubConnection()
			return id != 0 && id != last
		})
		last = s.HubConnection()
	}
}

// TestDNSFails takes the hub's name away: a connection stays, a new one is made when the name is known
// again, at another address if that has changed.
func TestDNSFails(t *testing.T) {
	t.Parallel()
	r := newRotation(t, "fails.test")
	line := natstest.NewLine(t, r.listen)
	_, port, err := net.SplitHostPort(line.Addr())
	must(t, err)
	dns.Set("fails.test", "127.0.0.1")
	r.edit(t, r.listen, "fails.test:"+port)
	s, _ := run(t, r.conf)
	polltest.Eventually(t, "connection to the hub", func() bool { return s.HubConnection() != 0 })
	first := s.HubConnection()
	dns.Set("fails.test", "")
	if s.HubConnection() != first {
		t.Error("the connection ends with the name")
	}
	line.Cut()
	polltest.Eventually(t, "no connection", func() bool { return s.HubConnection() == 0 })
	line.Restore()
	dns.Set("fails.test", "127.0.0.1")
	polltest.Eventually(t, "connection when the name is known again", func() bool { return s.HubConnection() != 0 })
}
