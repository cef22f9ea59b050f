package modbus

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	server "github.com/simonvetter/modbus"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/porttest"
)

// Datagrams that are lost, doubled or late are no values of others.
func TestUDP(t *testing.T) {
	t.Parallel()
	s := newSlave(t)
	s.set(1, codec.Holdings, 0, 5)
	s.set(1, codec.Holdings, 500, 6)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		up, err := net.Dial("tcp", s.addr)
		if err != nil {
			return
		}
		defer up.Close()
		buf := make([]byte, 300)
		var before []byte
		for n := 0; ; n++ {
			k, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if n%7 == 3 {
				continue // lost
			}
			_, _ = up.Write(buf[:k])
			a, err := readFrame(up)
			if err != nil {
				return
			}
			if n%5 == 1 {
				_, _ = pc.WriteTo(before, from) // late or doubled
			}
			before = a
			_, _ = pc.WriteTo(a, from)
		}
	}()
	r := newRig(t)
	r.apply("d", pc.LocalAddr().String(), map[string]any{"mode": "udp", "timeout": 50, "retries": 2},
		prop{name: "x", typ: "INT", visitor: holding(0), cycle: 10, desired: "9"}, prop{name: "y", typ: "INT", visitor: holding(500), cycle: 10})
	polltest.Eventually(t, "ack", func() bool { return r.sink.ack("d", "x") == "applied" })
	polltest.Eventually(t, "samples", func() bool { return r.sink.count("d", "y") > 20 })
	r.stop()
	pc.Close()
	<-done
	for _, b := range r.sink.samples["d"] {
		for _, x := range b.Samples {
			if x.Quality == "good" && x.Property == "y" && x.Value.String() != "6" {
				t.Fatal(pretty(b))
			}
		}
	}
}

// Modbus/TCP Security against a server that demands a client certificate; without
// one the device is offline and says why.
func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, caKey := certificate(t, dir, "ca", nil, nil)
	certificate(t, dir, "server", ca, caKey)
	certificate(t, dir, "client", ca, caKey)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	s := &slave{addr: porttest.Addr(t), regs: map[byte]map[codec.Table][]uint16{}, holes: map[codec.Table]map[int]bool{}, fail: map[byte]error{}}
	srv, err := server.NewServer(&server.ServerConfiguration{URL: "tcp+tls://" + s.addr, MaxClients: 5, TLSServerCert: &pair, TLSClientCAs: pool}, s)
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Stop() })
	s.set(1, codec.Holdings, 0, 12)
	config := map[string]any{"mode": "TLS", "caFile": filepath.Join(dir, "ca.crt"), "certFile": filepath.Join(dir, "client.crt"), "keyFile": filepath.Join(dir, "client.key")}
	r := newRig(t)
	r.apply("d", s.addr, config, one)
	polltest.Eventually(t, "value", func() bool { return r.sink.reported("d", "x") == "12" })
	delete(config, "certFile")
	delete(config, "keyFile")
	r.apply("anonymous", s.addr, config, one)
	polltest.Eventually(t, "offline", func() bool { return r.sink.state("anonymous") == v1beta1.StateOffline })
}

func certificate(t *testing.T, dir, name string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.ParseIP("127.0.0.1")}, IsCA: parent == nil, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if parent == nil {
		parent, parentKey = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	k, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".crt": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "EC PRIVATE KEY", Bytes: k}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c, key
}
