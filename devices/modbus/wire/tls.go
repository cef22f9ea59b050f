package wire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
)

// newTLS returns the medium of Modbus/TCP Security (MB-TCP-Security-v21): TLS 1.2 or later,
// with a client certificate if one is named. It reads the files at every connect, so that
// renewed certificates take effect. Without a CA file it trusts the system's roots.
func newTLS(e Endpoint) medium {
	return medium{framing: &mbap{}, dial: func(ctx context.Context) (conn, error) {
		c, err := tlsConfig(e)
		if err != nil {
			return nil, err
		}
		d := tls.Dialer{Config: c}
		return d.DialContext(ctx, "tcp", e.Address)
	}}
}

func tlsConfig(e Endpoint) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(e.Address)
	if err != nil {
		return nil, fmt.Errorf("split address: %w", err)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if e.tls.serverName != "" {
		c.ServerName = e.tls.serverName
	}
	if e.tls.ca != "" {
		pem, err := os.ReadFile(e.tls.ca)
		if err != nil {
			return nil, fmt.Errorf("read CA: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read CA %s: no certificate in it", e.tls.ca)
		}
	}
	if e.tls.cert != "" {
		pair, err := tls.LoadX509KeyPair(e.tls.cert, e.tls.key)
		if err != nil {
			return nil, fmt.Errorf("read client certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
