package metrics

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/internal/lab/pki"
)

func authority(t *testing.T, name string) *pki.Authority {
	t.Helper()
	ca, err := pki.NewAuthority(t.TempDir(), name)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t *testing.T, ca *pki.Authority, name string, hosts ...string) pki.Pair {
	t.Helper()
	p, err := ca.Issue(t.TempDir(), name, pki.Subject{Name: name, Hosts: hosts})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func writeFile(t *testing.T, name string, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// client trusts ca and has the certificate p, if there is one.
func client(t *testing.T, ca *pki.Authority, p *pki.Pair) *http.Client {
	t.Helper()
	pem, err := os.ReadFile(ca.CertFile)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	config.RootCAs.AppendCertsFromPEM(pem)
	if p != nil {
		cert, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
		if err != nil {
			t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{cert}
	}
	transport := &http.Transport{TLSClientConfig: config}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// TestWebConfigLetsInItsClientsOnly has the metrics served by TLS to those with a certificate.
func TestWebConfigLetsInItsClientsOnly(t *testing.T) {
	ca, others := authority(t, "metrics"), authority(t, "others")
	server, scraper, stranger := issue(t, ca, "gateway", "127.0.0.1"), issue(t, ca, "prometheus"), issue(t, others, "prometheus")
	file := writeFile(t, "web.yaml", "tls_server_config:", "  cert_file: "+server.CertFile, "  key_file: "+server.KeyFile,
		"  client_auth_type: RequireAndVerifyClientCert", "  client_ca_file: "+ca.CertFile, "")
	if err := CheckWebConfig(file); err != nil {
		t.Fatal(err)
	}
	url, stop := startAt(t, Endpoint{WebConfigFile: file, Log: zaptest.NewLogger(t)}, Handler(prometheus.NewRegistry(), nil, nil))
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	encrypted := strings.Replace(url, "http:", "https:", 1) + "/readyz"
	r, err := client(t, ca, &scraper).Get(encrypted)
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusOK {
		t.Errorf("with a certificate: %s", r.Status)
	}
	for name, p := range map[string]*pki.Pair{"without a certificate": nil, "with one of another authority": &stranger} {
		if r, err := client(t, ca, p).Get(encrypted); err == nil {
			r.Body.Close()
			t.Errorf("%s: %s", name, r.Status)
		}
	}
	if r, err := http.Get(url + "/metrics"); err == nil {
		r.Body.Close()
		if r.StatusCode == http.StatusOK {
			t.Error("answered without TLS")
		}
	}
}

func TestCheckWebConfig(t *testing.T) {
	for name, file := range map[string]string{
		"unknown key":        writeFile(t, "web.yaml", "tls: {}"),
		"no hash":            writeFile(t, "web.yaml", "basic_auth_users: {prometheus: secret}"),
		"no such key":        writeFile(t, "web.yaml", "tls_server_config: {cert_file: missing.crt, key_file: missing.key}"),
		"no such web config": filepath.Join(t.TempDir(), "missing"),
	} {
		if err := CheckWebConfig(file); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
