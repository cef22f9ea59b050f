package kubeletapi

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/petiole-io/petiole/internal/durable"
)

// Credentials are those by which the kubelet and the leaf authenticate each other.
type Credentials struct {
	// CAFile is the authority of the leaf's certificate, the kubelet's --client-ca-file.
	CAFile string
	// CertFile and KeyFile are the kubelet's serving certificate.
	CertFile, KeyFile string
	// Client is how the leaf connects.
	Client *tls.Config
}

// Load reads the credentials in dir, or creates them, also in the place of those that cannot be
// used.
func Load(dir, node string) (*Credentials, error) {
	c := &Credentials{CAFile: filepath.Join(dir, "ca.crt"), CertFile: filepath.Join(dir, "serving.crt"), KeyFile: filepath.Join(dir, "serving.key")}
	clientFile := filepath.Join(dir, "client.pem")
	var err error
	if c.Client, err = c.read(clientFile, node); err == nil {
		return c, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the folder of the kubelet's credentials: %w", err)
	}
	if err := c.create(clientFile, node); err != nil {
		return nil, fmt.Errorf("create the kubelet's credentials: %w", err)
	}
	if c.Client, err = c.read(clientFile, node); err != nil {
		return nil, fmt.Errorf("read the kubelet's credentials: %w", err)
	}
	return c, nil
}

// read returns the leaf's side of the connection. It fails if the kubelet could not use its own.
func (c *Credentials) read(clientFile, node string) (*tls.Config, error) {
	ca, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New(c.CAFile + " has no certificate")
	}
	client, err := tls.LoadX509KeyPair(clientFile, clientFile)
	if err != nil {
		return nil, err
	}
	serving, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return nil, err
	}
	for cert, usage := range map[*x509.Certificate]x509.ExtKeyUsage{client.Leaf: x509.ExtKeyUsageClientAuth, serving.Leaf: x509.ExtKeyUsageServerAuth} {
		// They are valid at any time, whatever the clock of the gateway says.
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: validFrom.Add(time.Hour)}); err != nil {
			return nil, err
		}
	}
	if err := serving.Leaf.VerifyHostname(node); err != nil {
		return nil, err
	}
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{client}, ServerName: node, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}, nil
}

// The certificates do not expire, and are valid from 1970: the clock of a gateway without a battery
// may start there.
var validFrom, validTo = time.Unix(0, 0), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

func (c *Credentials) create(clientFile, node string) error {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "petiole kubelet of " + node},
		NotBefore: validFrom, NotAfter: validTo, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return err
	}
	issue := func(template *x509.Certificate) (cert, key []byte, err error) {
		template.NotBefore, template.NotAfter, template.KeyUsage = validFrom, validTo, x509.KeyUsageDigitalSignature
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		der, err := x509.CreateCertificate(rand.Reader, template, ca, &private.PublicKey, caKey)
		if err != nil {
			return nil, nil, err
		}
		keyDER, err := x509.MarshalPKCS8PrivateKey(private)
		return encode("CERTIFICATE", der), encode("PRIVATE KEY", keyDER), err
	}
	serving, servingKey, err := issue(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{node, "localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	})
	if err != nil {
		return err
	}
	// The leaf is the node: its node API lets the node do everything on its kubelet.
	client, clientKey, err := issue(&x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return err
	}
	for _, f := range []struct {
		path string
		data []byte
	}{
		{c.CAFile, encode("CERTIFICATE", caDER)}, {c.KeyFile, servingKey}, {c.CertFile, serving}, {clientFile, append(client, clientKey...)},
	} {
		if err := durable.WriteFile(f.path, f.data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func encode(what string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: what, Bytes: der})
}
