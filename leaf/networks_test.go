package leaf

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/porttest"
	"github.com/petiole-io/petiole/streams"
)

// networkChild is set in the environment of a test that runs in a network namespace of its own.
const networkChild = "PETIOLE_LEAF_NETWORK_CHILD"

// The addresses of the gateway and of the hub.
const (
	nearAddress, nextAddress, farAddress = "10.0.0.1", "10.0.0.3", "10.0.1.2"
)

// TestNetworks has a leaf reach the hub over real interfaces of namespaces that the test makes (it needs
// root): 1 MB of objects and 1 MB of records arrive, in order, each record once.
func TestNetworks(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(*testing.T){
		"MTU": smallMTU, "BlackHole": blackHole, "Address": changedAddress, "NAT": patientNAT, "ForgetfulNAT": forgetfulNAT,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if os.Getenv(networkChild) != "" {
				run(t)
				return
			}
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.v", "-test.timeout=5m", "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$")
			cmd.Env = append(os.Environ(), networkChild+"=1")
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for line := range strings.Lines(string(out)) {
				if strings.Contains(line, "MEASURED") {
					t.Log(strings.TrimSpace(line))
				}
			}
		})
	}
}

// network is a network namespace beside that of the process.
type network struct {
	calls  chan func()
	thread int
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{calls: make(chan func())}
	made := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		n.thread = unix.Gettid()
		made <- err
		for call := range n.calls {
			call()
		}
	}()
	t.Cleanup(func() { close(n.calls) })
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	return n
}

// in runs f in the namespace; nil is that of the process.
func (n *network) in(f func()) {
	if n == nil {
		f()
		return
	}
	done := make(chan struct{})
	n.calls <- func() { defer close(done); f() }
	<-done
}

// ip runs commands of ip(8) in the namespace.
func (n *network) ip(t *testing.T, commands ...string) {
	t.Helper()
	n.in(func() {
		for _, c := range commands {
			if out, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
				t.Errorf("ip %s: %v: %s", c, err, out)
			}
		}
	})
	if t.Failed() {
		t.FailNow()
	}
}

// nft runs commands of nft(8) in the namespace.
func (n *network) nft(t *testing.T, commands string) (output string) {
	t.Helper()
	n.in(func() {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(commands)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("nft: %v: %s", err, out)
		}
		output = string(out)
	})
	return output
}

// sysctl sets a value of /proc/sys/net in the namespace.
func (n *network) sysctl(t *testing.T, name, value string) {
	t.Helper()
	n.in(func() {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644); err != nil {
			t.Error(err)
		}
	})
}

// path connects the namespace of the process to that of the hub by a router, with these options of the
// interfaces of both ends.
func path(t *testing.T, options string) (router, far *network) {
	t.Helper()
	var gateway *network
	router, far = newNetwork(t), newNetwork(t)
	gateway.ip(
		t, "link set lo up", "link add near type veth peer name r0", fmt.Sprintf("link set r0 netns %d", router.thread),
		"link add far type veth peer name r1", fmt.Sprintf("link set r1 netns %d", router.thread), fmt.Sprintf("link set far netns %d", far.thread),
		"addr add "+nearAddress+"/24 dev near", "link set near up "+options,
	)
	router.sysctl(t, "ipv4/ip_forward", "1")
	router.ip(t, "addr add 10.0.0.254/24 dev r0", "addr add 10.0.1.254/24 dev r1", "link set r0 up", "link set r1 up")
	far.ip(t, "link set lo up", "addr add "+farAddress+"/24 dev far", "link set far up "+options, "route add default via 10.0.1.254")
	gateway.ip(t, "route add default via 10.0.0.254")
	return router, far
}

// farSite is a site whose hub is at farAddress, with TLS.
func farSite(t *testing.T, far *network) (*site, context.Context) {
	t.Helper()
	authority, pair := hubCertificate(t, farAddress)
	listen := porttest.Addr(t)
	s, ctx := newSiteAt(t, fmt.Sprintf("websocket { listen: %q, tls { cert_file: %q, key_file: %q } }", listen, pair.CertFile, pair.KeyFile))
	var l net.Listener
	var err error
	far.in(func() { l, err = (&net.ListenConfig{}).Listen(ctx, "tcp4", farAddress+":0") })
	if err != nil {
		t.Fatal(err)
	}
	before := fmt.Sprintf(`url: "nats-leaf://%s"`, s.line.Addr())
	s.line = natstest.NewLineAt(t, l, listen)
	s.configure(t, before, fmt.Sprintf(`url: "wss://%s", tls { ca_file: %q, timeout: 20 }`, s.line.Addr(), authority))
	return s, ctx
}

// bulk stores 1 MB of objects for the site and 1 MB of records at the site.
func (s *site) bulk(t *testing.T, ctx context.Context) {
	t.Helper()
	for i := range bulkSize {
		putDesired(t, ctx, s, fmt.Sprintf("cm-%d", i), noise(1_000_000/bulkSize))
		if _, err := s.js.Publish(ctx, streams.LocalTelemetrySubject("sample", "default", "pump"), []byte(noise(1_000_000/bulkSize)), jetstream.WithRetryAttempts(3)); err != nil {
			t.Fatal(err)
		}
	}
}

// bulkSize is the number of objects, and of records.
const bulkSize = 25

// awaitBulk waits until all of it has arrived, and fails unless each record is at the hub once, in order.
func (s *site) awaitBulk(t *testing.T, ctx context.Context) {
	t.Helper()
	var want []string
	for i := range bulkSize {
		want = append(want, fmt.Sprint(i+1))
	}
	polltest.Within(t, 3*time.Minute, "everything arrives", func() bool {
		return backlog(t, ctx, s) == 0 && same(t, ctx, s) && arrived(t, ctx, s) >= bulkSize
	})
	if has := hubHas(t, ctx, s); !slices.Equal(has, want) {
		t.Errorf("at the hub: %v", has)
	}
}

// smallMTU: the interfaces of both ends take 576 bytes.
func smallMTU(t *testing.T) {
	_, far := path(t, "mtu 576")
	s, ctx := farSite(t, far)
	respond(t, s)
	s.start(t, ctx)
	s.up(t)
	_, since, _ := s.link.State()
	start := time.Now()
	s.bulk(t, ctx)
	s.awaitBulk(t, ctx)
	if _, now, _ := s.link.State(); now != since {
		t.Error("the link was lost")
	}
	t.Logf("MEASURED 1 MB each way: %s", time.Since(start).Round(10*time.Millisecond))
}

// blackHole: a router drops what is larger than 576 bytes without a word, and the kernels of both ends
// look for what passes (net.ipv4.tcp_mtu_probing).
func blackHole(t *testing.T) {
	router, far := path(t, "gso_max_segs 1")
	router.nft(t, "table ip hole { chain forward { type filter hook forward priority 0; meta length > 576 counter drop; }; }")
	for _, n := range []*network{nil, far} {
		n.sysctl(t, "ipv4/tcp_mtu_probing", "1")
		n.sysctl(t, "ipv4/tcp_base_mss", "512")
	}
	s, ctx := farSite(t, far)
	respond(t, s)
	start := time.Now()
	s.start(t, ctx)
	polltest.Eventually(t, "link up", func() bool { up, _, _ := s.link.State(); return up })
	t.Logf("MEASURED link up: %s", time.Since(start).Round(10*time.Millisecond))
	start = time.Now()
	s.bulk(t, ctx)
	s.awaitBulk(t, ctx)
	t.Logf("MEASURED 1 MB each way: %s", time.Since(start).Round(10*time.Millisecond))
	if out := router.nft(t, "list table ip hole"); strings.Contains(out, "packets 0 ") {
		t.Errorf("nothing was dropped: the test has proved nothing: %s", out)
	}
}

// changedAddress: the address of the gateway changes under way, as a new lease of DHCP does.
func changedAddress(t *testing.T) {
	_, far := path(t, "")
	s, ctx := farSite(t, far)
	s.line.Limit(150_000)
	respond(t, s)
	s.start(t, ctx)
	s.up(t)
	_, since, _ := s.link.State()
	s.bulk(t, ctx)
	polltest.Eventually(t, "a part has arrived", func() bool { return arrived(t, ctx, s) > 0 })
	if arrived(t, ctx, s) == bulkSize {
		t.Fatal("all has arrived: the test has proved nothing")
	}
	var gateway *network
	start := time.Now()
	gateway.ip(t, "addr del "+nearAddress+"/24 dev near", "addr add "+nextAddress+"/24 dev near", "route replace default via 10.0.0.254")
	polltest.Eventually(t, "the link is up again", func() bool { up, now, _ := s.link.State(); return up && now != since })
	t.Logf("MEASURED the link is up again: %s", time.Since(start).Round(10*time.Millisecond))
	s.awaitBulk(t, ctx)
}

// nat makes the router hide the gateway behind its own address, and forget a connection that is silent
// for so many seconds: what comes of it then is dropped without a word.
func nat(t *testing.T, router *network, seconds int) {
	t.Helper()
	router.nft(t, `
table ip nat { chain out { type nat hook postrouting priority 100; oifname "r1" masquerade; }; }
table ip box { chain forward { type filter hook forward priority 0; policy drop;
	ct state established,related accept
	iifname "r0" ct state new tcp flags & (syn | ack) == syn accept
	counter
}; }`)
	router.sysctl(t, "netfilter/nf_conntrack_tcp_loose", "0")
	router.sysctl(t, "netfilter/nf_conntrack_tcp_timeout_established", fmt.Sprint(seconds))
}

// forgotten reports whether the router has dropped something of a connection that it has forgotten.
func forgotten(t *testing.T, router *network) bool {
	t.Helper()
	return !strings.Contains(router.nft(t, "list table ip box"), "packets 0 ")
}

// patientNAT: a NAT forgets a connection after 30 s of silence. The pings keep it for longer than that,
// while nothing else crosses.
func patientNAT(t *testing.T) {
	router, far := path(t, "")
	nat(t, router, 30)
	s, ctx := farSite(t, far)
	respond(t, s)
	s.start(t, ctx)
	s.up(t)
	_, since, _ := s.link.State()
	time.Sleep(40 * time.Second) // the silence itself
	if _, now, _ := s.link.State(); now != since || forgotten(t, router) {
		t.Errorf("the connection of %s is one of %s, forgotten %v", since, now, forgotten(t, router))
	}
	s.bulk(t, ctx)
	s.awaitBulk(t, ctx)
	if _, now, _ := s.link.State(); now != since {
		t.Error("the link was lost")
	}
}

// forgetfulNAT: a NAT forgets a connection sooner than the leaf pings. The leaf notices, connects again, and
// what was stored at both ends meanwhile arrives.
func forgetfulNAT(t *testing.T) {
	router, far := path(t, "")
	nat(t, router, 2)
	s, ctx := farSite(t, far)
	respond(t, s)
	s.configure(t, `"4s"`, `"6s"`)
	s.start(t, ctx)
	s.up(t)
	_, since, _ := s.link.State()
	polltest.Eventually(t, "the NAT forgets the connection", func() bool { return forgotten(t, router) })
	start := time.Now()
	s.bulk(t, ctx)
	polltest.Eventually(t, "another connection", func() bool { up, now, _ := s.link.State(); return up && now != since })
	t.Logf("MEASURED the link is up again: %s", time.Since(start).Round(10*time.Millisecond))
	s.awaitBulk(t, ctx)
}
