package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/petiole-io/petiole/internal/durable"
)

// Credentials are those by which the node API and its clients authenticate each other.
type Credentials struct {
	// CAPEM is the certificate authority of Cert, in PEM.
	CAPEM []byte
	// Cert is the serving certificate, for loopback.
	Cert tls.Certificate
	// Token is the bearer token of system:node:<node>.
	Token string
}

// Load reads the credentials in dir. It creates dir and those that do not exist.
func Load(dir, node string) (*Credentials, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	token, err := readOrCreate(filepath.Join(dir, "kubelet.token"), func() ([]byte, error) {
		b := make([]byte, 32)
		_, err := rand.Read(b)
		return []byte(hex.EncodeToString(b)), err
	})
	if err != nil {
		return nil, fmt.Errorf("load bearer token: %w", err)
	}
	// It is one file, so that the certificate always matches its authority.
	bundle, err := readOrCreate(filepath.Join(dir, "serving.pem"), func() ([]byte, error) { return newServingBundle(node) })
	if err != nil {
		return nil, fmt.Errorf("load serving certificate: %w", err)
	}
	id := &Credentials{Token: string(token)}
	if id.Cert, err = tls.X509KeyPair(bundle, bundle); err != nil {
		return nil, fmt.Errorf("read serving certificate: %w", err)
	}
	if n := len(id.Cert.Certificate); n != 2 {
		return nil, fmt.Errorf("read serving certificate: %d certificates, want 2", n)
	}
	id.CAPEM = certificatePEM(id.Cert.Certificate[1])
	return id, nil
}

// readOrCreate returns the content of a file, or creates the file with the result of content.
func readOrCreate(path string, content func() ([]byte, error)) ([]byte, error) {
	b, err := os.ReadFile(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	if b, err = content(); err != nil {
		return nil, err
	}
	return b, durable.WriteFile(path, b, 0o600)
}

// newServingBundle creates a certificate authority and a serving certificate for loopback.
// They do not expire, and are valid from 1970: the clock of a gateway without a battery may
// start there.
func newServingBundle(node string) ([]byte, error) {
	from, to := time.Unix(0, 0), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "petiole node API of " + node},
		NotBefore: from, NotAfter: to, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: node},
		NotBefore: from, NotAfter: to, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", node},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, b := range []*pem.Block{
		{Type: "CERTIFICATE", Bytes: der}, {Type: "CERTIFICATE", Bytes: caDER}, {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		out = append(out, pem.EncodeToMemory(b)...)
	}
	return out, nil
}
