package pki

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"testing"
)

// TestIssue: certificates verify against their authority for their host only, and a
// second start keeps authority and certificate.
func TestIssue(t *testing.T) {
	dir := t.TempDir()
	var before []byte
	for range 2 {
		ca, err := NewAuthority(dir, "ca")
		if err != nil {
			t.Fatal(err)
		}
		p, err := ca.Issue(dir, "server", Subject{Name: "s", Hosts: []string{"10.98.0.1"}})
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(p.CertFile)
		if err != nil {
			t.Fatal(err)
		}
		if before != nil && string(before) != string(data) {
			t.Error("the certificate changed at the second start")
		}
		before = data
		pair, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(pair.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AddCert(ca.cert)
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: "10.98.0.1"}); err != nil {
			t.Error(err)
		}
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: "10.98.0.2"}); err == nil {
			t.Error("the certificate is valid for another host")
		}
	}
}
