package compose

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/petiole-io/petiole/internal/lab/pki"
	"github.com/petiole-io/petiole/internal/lab/render"
)

// webConfig has the leaf serve its metrics by TLS to those who have a certificate of the metrics'
// authority.
const webConfig = `tls_server_config:
  cert_file: gateway.crt
  key_file: gateway.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.crt
`

func (c Cloud) metricsDir() string { return filepath.Join(c.Dir, "metrics") }

// metricsCredentials are the certificates of the leaf's metrics, and their authority.
type metricsCredentials struct {
	caFile              string
	gateway, prometheus pki.Pair
}

func (c Cloud) metricsCredentials() (m metricsCredentials, err error) {
	ca, err := pki.NewAuthority(c.metricsDir(), "metrics-ca")
	if err != nil {
		return m, err
	}
	m.caFile = ca.CertFile
	if m.gateway, err = ca.Issue(c.metricsDir(), "gateway", pki.Subject{Name: node, Hosts: []string{hostGateway}}); err != nil {
		return m, err
	}
	m.prometheus, err = ca.Issue(c.metricsDir(), "prometheus", pki.Subject{Name: "prometheus"})
	return m, err
}

// ShareMetrics writes what the leaf serves its metrics with to the folder that the gateway reads, and
// what they are scraped with to the one that Prometheus reads, and nobody else: Prometheus runs as
// another user.
func (c Cloud) ShareMetrics(gateway, prometheus string) error {
	m, err := c.metricsCredentials()
	if err != nil {
		return err
	}
	for _, f := range []struct {
		from, to string
		mode     os.FileMode
	}{
		{m.caFile, filepath.Join(gateway, "ca.crt"), 0o600},
		{m.gateway.CertFile, filepath.Join(gateway, "gateway.crt"), 0o600},
		{m.gateway.KeyFile, filepath.Join(gateway, "gateway.key"), 0o600},
		{m.caFile, filepath.Join(prometheus, "ca.crt"), 0o644},
		{m.prometheus.CertFile, filepath.Join(prometheus, "prometheus.crt"), 0o644},
		{m.prometheus.KeyFile, filepath.Join(prometheus, "prometheus.key"), 0o644},
	} {
		data, err := os.ReadFile(f.from)
		if err != nil {
			return fmt.Errorf("read the credentials of metrics: %w", err)
		}
		if err := render.Write(f.to, data, f.mode); err != nil {
			return fmt.Errorf("write %s: %w", f.to, err)
		}
	}
	return render.Secret(filepath.Join(gateway, "web.yaml"), []byte(webConfig))
}
