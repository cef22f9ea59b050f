// Package pki creates the lab's certificates: one authority per purpose, and leaf
// certificates that live as long as the lab's folder.
//
// Every function keeps what is on disk already, so that a lab that is started again
// trusts what it trusted before. It is for development only: keys are plain files.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
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

	"github.com/petiole-io/petiole/internal/lab/render"
)

const lifetime = 10 * 365 * 24 * time.Hour

// Pair names the files of a certificate and its key, both PEM.
type Pair struct{ CertFile, KeyFile string }

// Authority signs certificates.
type Authority struct {
	Pair
	cert *x509.Certificate
	key  crypto.Signer
}

// Subject is the subject of a certificate. Hosts are DNS names or IP addresses of a
// server; a certificate without hosts is a client's.
type Subject struct {
	Name   string
	Groups []string
	Hosts  []string
}

// NewAuthority reads the authority name from dir, or creates it there.
func NewAuthority(dir, name string) (*Authority, error) {
	a := &Authority{Pair: pairIn(dir, name)}
	err := a.read()
	if err == nil {
		return a, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read authority %s: %w", name, err)
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign,
	}
	if err := write(a.Pair, template, nil); err != nil {
		return nil, fmt.Errorf("create authority %s: %w", name, err)
	}
	if err := a.read(); err != nil {
		return nil, fmt.Errorf("read authority %s: %w", name, err)
	}
	return a, nil
}

// Issue returns the certificate file in dir for the subject, and creates it when it is
// missing.
func (a *Authority) Issue(dir, file string, s Subject) (Pair, error) {
	p := pairIn(dir, file)
	if exists(p.CertFile) && exists(p.KeyFile) {
		return p, nil
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: s.Name, Organization: s.Groups},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, h := range s.Hosts {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	if err := write(p, template, a); err != nil {
		return Pair{}, fmt.Errorf("issue certificate %s: %w", file, err)
	}
	return p, nil
}

// SigningKey returns the file of a private key without certificate, created when missing.
func SigningKey(dir, file string) (string, error) {
	path := filepath.Join(dir, file+".key")
	if exists(path) {
		return path, nil
	}
	if _, err := newKey(path); err != nil {
		return "", fmt.Errorf("create key %s: %w", file, err)
	}
	return path, nil
}

func (a *Authority) read() error {
	certPEM, err := os.ReadFile(a.CertFile)
	if err != nil {
		return err
	}
	keyPEM, err := os.ReadFile(a.KeyFile)
	if err != nil {
		return err
	}
	cert, key := decode(certPEM), decode(keyPEM)
	if cert == nil || key == nil {
		return fmt.Errorf("%s or %s is not PEM", a.CertFile, a.KeyFile)
	}
	if a.cert, err = x509.ParseCertificate(cert); err != nil {
		return err
	}
	a.key, err = x509.ParseECPrivateKey(key)
	return err
}

// write signs the template with signer, or with its own key when signer is nil. The
// certificate is written last: it exists only with its key.
func write(p Pair, template *x509.Certificate, signer *Authority) error {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	template.SerialNumber = serial
	template.NotBefore = time.Now().Add(-time.Hour)
	template.NotAfter = template.NotBefore.Add(lifetime)
	key, err := newKey(p.KeyFile)
	if err != nil {
		return err
	}
	parent, signKey := template, crypto.Signer(key)
	if signer != nil {
		parent, signKey = signer.cert, signer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signKey)
	if err != nil {
		return err
	}
	return render.Write(p.CertFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

func newKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, render.Write(path, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

func pairIn(dir, name string) Pair {
	return Pair{CertFile: filepath.Join(dir, name+".crt"), KeyFile: filepath.Join(dir, name+".key")}
}

func decode(data []byte) []byte {
	if b, _ := pem.Decode(data); b != nil {
		return b.Bytes
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
