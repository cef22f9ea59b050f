package bench

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestGateLetsOnlyTheGuestThrough echoes through a proxy for this host, and is refused by
// one for another.
func TestProxyLetsOnlyTheGuestThrough(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			io.Copy(c, c)
			c.Close()
		}
	}()
	defer func() { echo.Close(); <-served }()
	for guest, want := range map[string]string{"127.0.0.1": "ping", "192.0.2.1": ""} {
		g, err := startProxy("127.0.0.1:0", echo.Addr().String(), netip.MustParseAddr(guest))
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", g.address())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("ping")); err != nil && want != "" {
			t.Error(err)
		}
		got := make([]byte, 4)
		n, err := io.ReadFull(c, got)
		if string(got[:n]) != want {
			t.Errorf("for guest %s: got %q (%v), want %q", guest, got[:n], err, want)
		}
		c.Close()
		if err := g.close(); err != nil {
			t.Error(err)
		}
	}
}
