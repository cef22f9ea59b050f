package kubeletapi

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// load returns credentials, and what a kubelet with them listens with.
func load(t *testing.T, dir string) (*Credentials, *tls.Config) {
	t.Helper()
	c, err := Load(dir, "plant-a-1")
	must(t, err)
	cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	must(t, err)
	return c, &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: c.Client.RootCAs, ClientAuth: tls.RequireAndVerifyClientCert}
}

// kubelet listens, greets each client, and returns the file of its configuration.
func kubelet(t *testing.T, cfg *tls.Config) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "hello") // the client may be refused
			conn.Close()
		}
	}()
	_, port, err := net.SplitHostPort(l.Addr().String())
	must(t, err)
	file := filepath.Join(t.TempDir(), "kubelet.yaml")
	must(t, os.WriteFile(file, []byte("kind: KubeletConfiguration\naddress: 0.0.0.0\nport: "+port+"\n"), 0o600))
	return file
}

func dial(t *testing.T, c *Credentials, file string) (string, error) {
	t.Helper()
	d, err := NewDialer(c, "plant-a-1", file)
	must(t, err)
	conn, err := d.Dial(t.Context())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	got, err := io.ReadAll(conn)
	return string(got), err
}

// The kubelet and the leaf know each other, also after a restart, and nobody else.
func TestKubeletAndLeafKnowEachOther(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, listen := load(t, dir)
	file := kubelet(t, listen)
	if got, err := dial(t, c, file); got != "hello" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	again, _ := load(t, dir)
	if got, err := dial(t, again, file); got != "hello" || err != nil {
		t.Errorf("after a restart: %q, %v", got, err)
	}
	other, otherListen := load(t, t.TempDir())
	if got, err := dial(t, other, file); err == nil {
		t.Errorf("with credentials of another gateway: %q", got)
	}
	if got, err := dial(t, c, kubelet(t, otherListen)); err == nil || !strings.Contains(err.Error(), "the kubelet of node plant-a-1, at 127.0.0.1:") {
		t.Errorf("a process that took the kubelet's port: %q, %v", got, err)
	}
	for _, name := range []string{"ca.crt", "serving.crt", "serving.key", "client.pem"} {
		info, err := os.Stat(filepath.Join(dir, name))
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
}

// Damaged or incomplete credentials are replaced: a kubelet gets them with its next start.
func TestDamagedCredentialsAreReplaced(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"ca.crt", "serving.crt", "serving.key", "client.pem"} {
		dir := t.TempDir()
		load(t, dir)
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("damaged"), 0o600))
		c, listen := load(t, dir)
		if got, err := dial(t, c, kubelet(t, listen)); got != "hello" || err != nil {
			t.Errorf("after %s was damaged: %q, %v", name, got, err)
		}
	}
}

func TestEndpoint(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "127.0.0.1:10250", "address: 0.0.0.0\nport: 10260": "127.0.0.1:10260", `address: "::"`: "127.0.0.1:10250",
		"address: 192.0.2.7": "192.0.2.7:10250", `address: "::1"`: "[::1]:10250",
	} {
		file := filepath.Join(t.TempDir(), "kubelet.yaml")
		must(t, os.WriteFile(file, []byte(text), 0o600))
		if got, err := endpoint(file); got != want || err != nil {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
	if got, err := endpoint(""); got != "127.0.0.1:10250" || err != nil {
		t.Errorf("no file: %q, %v", got, err)
	}
	file := filepath.Join(t.TempDir(), "kubelet.yaml")
	must(t, os.WriteFile(file, []byte("port: [1]"), 0o600))
	if _, err := endpoint(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a file that cannot be read: %v", err)
	}
}
