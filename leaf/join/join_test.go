package join_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"go.uber.org/goleak"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/internal/configfile"
	"github.com/petiole-io/petiole/internal/lab/pki"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/porttest"
	"github.com/petiole-io/petiole/leaf"
	"github.com/petiole-io/petiole/leaf/join"
	"github.com/petiole-io/petiole/leaf/join/jointest"
	"github.com/petiole-io/petiole/streams"
	wire "github.com/petiole-io/petiole/streams/join"
)

func TestMain(m *testing.M) {
	if description, ok := os.LookupEnv(childEnv); ok {
		runChild(description)
	}
	goleak.VerifyTestMain(m)
}

// TestJoin runs what a machine does that joins, at one hub, each for a site of its own.
func TestJoin(t *testing.T) {
	t.Parallel()
	hub := natstest.StartTLSOperatorHub(t, "127.0.0.1")
	t.Run("group", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T, *cloud, *jointest.Machine){
			"Again": joinResetJoin, "WithoutSystemd": withoutSystemd, "BadTokensAndURLs": badTokensAndURLs, "ExpiredToken": expiredToken,
			"RefusedByTheBridge": refusedByTheBridge, "FalseHub": falseHub, "ClockOf1970": clockOf1970, "Preflight": preflight,
			"ForeignFilesStay": foreignFilesStay, "HubIsDown": hubIsDown, "AnswerIsLost": answerIsLost, "FullDisk": fullDisk, "NearlyFullDisks": nearlyFullDisks, "ClonedDisk": clonedDisk,
			"KilledAnywhere": killedAnywhere, "TwoAtOnce": twoAtOnce, "NoBridge": noBridge, "ClockAhead": clockAhead, "PastedToken": pastedToken,
			"Services": services, "WebSocket": webSocket, "Proxy": proxy, "BadProxies": badProxies,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, newCloud(t, hub, "site-"+strings.ToLower(name)), jointest.New(t, "gw-1"))
			})
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// cloud is a hub, and a bridge that accepts the holder of a token for one site.
type cloud struct {
	t    *testing.T
	hub  *natstest.OperatorHub
	site string
	// answer replaces the bridge's answer.
	answer func(r wire.Received) wire.Answer
	// lost has so many answers not sent.
	lost  atomic.Int32
	asked atomic.Int32
}

func newCloud(t *testing.T, hub *natstest.OperatorHub, site string) *cloud {
	t.Helper()
	c := &cloud{t: t, hub: hub, site: site}
	newBridge(c)
	return c
}

// newBridge has the hub's bridge answer for the site.
func newBridge(c *cloud) {
	c.t.Helper()
	c.answer = func(r wire.Received) wire.Answer {
		c.hub.Store(c.t, accounts.Site{Name: r.Site, Gateways: []string{r.Gateway}})
		token, err := c.hub.Keys.GatewayToken(r.Site, r.Gateway, "")
		must(c.t, err)
		return wire.Answer{Code: wire.Accepted, JWT: token, Node: r.Host, Authorities: string(c.authority())}
	}
	nc := c.hub.Connect(c.t, accounts.BridgeCreds)
	_, err := nc.Subscribe(streams.RequestSubject(c.site, wire.Verb), c.respond)
	must(c.t, err)
	must(c.t, nc.Flush())
}

func (c *cloud) respond(m *nats.Msg) {
	r, err := wire.ParseRequest(m.Data)
	if err == nil {
		err = r.Verify()
	}
	if err != nil {
		c.t.Error(err)
		return
	}
	c.asked.Add(1)
	signer, err := c.hub.Keys.JoinSigner(r.Site, r.Token)
	if err != nil {
		c.t.Error(err)
		return
	}
	signed, err := c.answer(r).Sign(r, signer)
	if err != nil {
		c.t.Error(err)
		return
	}
	if c.lost.Add(-1) >= 0 {
		return
	}
	data, err := json.Marshal(signed)
	if err != nil {
		c.t.Error(err)
	}
	_ = m.Respond(data) // the gateway may be gone
}

func (c *cloud) authority() []byte {
	c.t.Helper()
	data, err := os.ReadFile(c.hub.AuthorityFile())
	must(c.t, err)
	return data
}

func (c *cloud) url() string { return "tls://" + c.hub.LeafAddr() }

// token returns a token of the site, and has the hub let it in.
func (c *cloud) token(ttl time.Duration) string {
	c.t.Helper()
	return c.tokenWith(ttl, c.authority())
}

func (c *cloud) tokenWith(ttl time.Duration, authority []byte) string {
	c.t.Helper()
	site := c.site
	key, err := nkeys.CreateUser()
	must(c.t, err)
	public, err := key.PublicKey()
	must(c.t, err)
	j := accounts.JoinToken{Key: public, Expires: time.Now().Add(ttl)}
	c.hub.Store(c.t, accounts.Site{Name: site, Join: &j})
	user, err := c.hub.Keys.JoinUserToken(site, j, "")
	must(c.t, err)
	token, err := wire.NewToken(site, key, user, authority)
	must(c.t, err)
	return token.String()
}

// files returns what is in the machine's folders.
func files(t *testing.T, m *jointest.Machine) (names []string) {
	t.Helper()
	for _, dir := range []string{m.ConfigDir, m.DataDir, m.UnitDir} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && !d.IsDir() {
				names = append(names, filepath.Base(path))
			}
			return err
		})
		must(t, err)
	}
	slices.Sort(names)
	return names
}

// joined are the files of a gateway that has joined.
var joined = []string{"ca.crt", "join.json", "kubelet.yaml", "leaf.conf", "leaf.yaml", "link.creds", "link.nk", "petiole-leaf.service"}

// up makes the systemctl of a machine start a server that reports a connected leaf.
func up(t *testing.T, m *jointest.Machine) {
	m.Start = func(ctx context.Context) {
		runStatus(ctx, t, m.Metrics)
	}
}

// complete fails the test unless the machine has joined, with a configuration that the leaf takes.
func complete(t *testing.T, m *jointest.Machine) {
	t.Helper()
	if got := files(t, m); !slices.Equal(got, joined) {
		t.Errorf("files %v, want %v", got, joined)
	}
	cfg := leaf.DefaultConfig()
	must(t, configfile.Load(filepath.Join(m.ConfigDir, "leaf.yaml"), &cfg))
	must(t, cfg.Validate())
	if cfg.DataDir != m.DataDir || cfg.Metrics.Listen != m.Metrics {
		t.Errorf("leaf.yaml has the data folder %s and the metrics at %s", cfg.DataDir, cfg.Metrics.Listen)
	}
}

// nothing fails the test unless a join has failed with an error that says all of want, and left
// nothing.
func nothing(t *testing.T, m *jointest.Machine, err error, want ...string) {
	t.Helper()
	failed(t, err, want...)
	if left := files(t, m); len(left) > 0 {
		t.Errorf("files are left: %v", left)
	}
}

func failed(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	t.Logf("says: %v", err)
	for _, part := range want {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not say %q", part)
		}
	}
}

// joinResetJoin: what a gateway has afterwards; the same command again changes nothing; Reset leaves
// nothing.
func joinResetJoin(t *testing.T, c *cloud, m *jointest.Machine) {
	up(t, m)
	o := m.Options(c.url(), c.token(time.Hour))
	must(t, join.Run(t.Context(), m.Machine, o))
	complete(t, m)
	if calls := m.Calls(); !slices.Equal(calls, []string{"daemon-reload", "enable", "restart"}) {
		t.Errorf("systemctl was called with %v", calls)
	}
	kubelet, err := os.ReadFile(filepath.Join(m.ConfigDir, "kubelet.yaml"))
	must(t, err)
	for _, want := range []string{"containerRuntimeEndpoint: unix://" + m.Root + "/run/crio/crio.sock\n", "cgroupDriver: cgroupfs "} {
		if !bytes.Contains(kubelet, []byte(want)) {
			t.Errorf("kubelet.yaml does not have %q", want)
		}
	}
	before := c.asked.Load()
	must(t, join.Run(t.Context(), m.Machine, o))
	if c.asked.Load() != before {
		t.Error("a gateway that has joined asks again")
	}
	// A new token for the same machine, and another name of the hub: a new key, and what a person
	// has changed is kept.
	key, conf := readFile(t, m, "link.nk"), readFile(t, m, "leaf.conf")+"# mine\n"
	must(t, os.WriteFile(filepath.Join(m.ConfigDir, "leaf.conf"), []byte(conf), 0o600))
	must(t, os.WriteFile(filepath.Join(m.ConfigDir, "kubelet.yaml"), append(kubelet, "# mine\n"...), 0o600))
	must(t, join.Run(t.Context(), m.Machine, m.Options(c.url(), c.token(time.Hour))))
	if readFile(t, m, "link.nk") == key || readFile(t, m, "leaf.conf") != conf || readFile(t, m, "kubelet.yaml") != string(kubelet)+"# mine\n" {
		t.Error("a join again keeps the key, or not the files")
	}
	moved := m.Options("tls://"+natstest.NewLine(t, c.hub.LeafAddr()).Addr(), c.token(time.Hour))
	must(t, join.Run(t.Context(), m.Machine, moved))
	if readFile(t, m, "leaf.conf.before") != conf || !strings.Contains(readFile(t, m, "leaf.conf"), moved.URL) {
		t.Error("leaf.conf is not that of the other URL, or the former is lost")
	}
	other := m.Options(c.url(), newCloud(t, c.hub, "plant-other").token(time.Hour))
	err = join.Run(t.Context(), m.Machine, other)
	failed(t, err, "gateway of site "+c.site, "leaf reset")
	if !errors.Is(err, join.ErrJoined) {
		t.Error("not ErrJoined")
	}
	must(t, join.Reset(t.Context(), m.Machine, false, o.Progress))
	if left := files(t, m); len(left) > 0 {
		t.Errorf("reset leaves %v", left)
	}
	must(t, join.Run(t.Context(), m.Machine, other))
	complete(t, m)
}

// webSocket: a gateway joins by wss://, and its leaf connects so.
func webSocket(t *testing.T, c *cloud, m *jointest.Machine) {
	up(t, m)
	must(t, join.Run(t.Context(), m.Machine, m.Options(c.hub.WebSocketURL(), c.token(time.Hour))))
	complete(t, m)
	conf, err := server.ProcessConfigFile(filepath.Join(m.ConfigDir, "leaf.conf"))
	must(t, err)
	if r := conf.LeafNode.Remotes[0]; r.URLs[0].String() != c.hub.WebSocketURL() || !r.Websocket.Compression {
		t.Errorf("leaf.conf has the URL %s and compression %t", r.URLs[0], r.Websocket.Compression)
	}
	m.Connected(c.site)
}

// proxy: a gateway joins by an HTTP proxy that wants a password, and its leaf connects so. The
// password is in no output and in no file but one.
func proxy(t *testing.T, c *cloud, m *jointest.Machine) {
	const password = "pa$$ \"word\" 100%"
	box := natstest.StartProxy(t, "gateway", password)
	up(t, m)
	o := m.Options(c.url(), c.token(time.Hour))
	var said strings.Builder
	o.Progress = func(format string, args ...any) { fmt.Fprintf(&said, format+"\n", args...) }
	refused := func(want ...string) {
		t.Helper()
		err := join.Run(t.Context(), m.Machine, o)
		nothing(t, m, err, want...)
		if strings.Contains(err.Error(), "secret") {
			t.Error("the error has the password")
		}
	}
	o.Proxy = box.URL
	refused("407", "set username and password of the proxy")
	o.Proxy = strings.Replace(box.URL, "http://", "http://gateway:secret@", 1)
	refused("407", "set username and password of the proxy")
	o.Proxy = (&url.URL{Scheme: "http", User: url.UserPassword("gateway", password), Host: box.Addr}).String()
	box.Refuse(true)
	refused("403", "allow CONNECT", "wss:// on port 443")
	box.Refuse(false)
	must(t, join.Run(t.Context(), m.Machine, o))
	for _, text := range []string{said.String(), readFile(t, m, "leaf.conf"), readFile(t, m, "join.json")} {
		if strings.Contains(text, "word") && strings.Contains(text, "100%") {
			t.Errorf("the password is in\n%s", text)
		}
	}
	before := box.Connections()
	m.Connected(c.site)
	if box.Connections() == before {
		t.Error("the leaf does not connect by the proxy")
	}
	must(t, join.Reset(t.Context(), m.Machine, false, o.Progress))
	if left := files(t, m); len(left) > 0 {
		t.Errorf("reset leaves %v", left)
	}
}

// badProxies: each is refused before anything is done, with the field and without the password.
func badProxies(t *testing.T, c *cloud, m *jointest.Machine) {
	o := m.Options(c.url(), c.token(time.Hour))
	for bad, want := range map[string]string{
		"socks5://u:secret@proxy:1080": "scheme socks5", "http://": "no host", "http://u@proxy:3128": "need each other",
		"http://u:secret@proxy:3128/path": "path", "http://u:sec%ret@proxy": "not a URL",
	} {
		o.Proxy = bad
		err := join.Run(t.Context(), m.Machine, o)
		nothing(t, m, err, "--proxy", want)
		if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "sec%ret") {
			t.Error("the error has the password")
		}
	}
	o.Proxy, o.Timeout = "http://"+porttest.Addr(t), 3*time.Second
	nothing(t, m, join.Run(t.Context(), m.Machine, o), "HTTP proxy cannot be reached")
}

func readFile(t *testing.T, m *jointest.Machine, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(m.ConfigDir, name))
	must(t, err)
	return string(data)
}

// withoutSystemd: the leaf is not started, and Run says how to start it.
func withoutSystemd(t *testing.T, c *cloud, m *jointest.Machine) {
	m.Systemctl = nil
	o := m.Options(c.url(), c.token(time.Hour))
	o.LocalClients = true
	said := ""
	o.Progress = func(format string, args ...any) { said = strings.TrimSpace(format); _ = args }
	must(t, join.Run(t.Context(), m.Machine, o))
	if !strings.Contains(said, "no systemd") {
		t.Errorf("it says %q", said)
	}
	for _, name := range []string{"users/operator.nk", "users/operator.conf", "users/application.conf"} {
		if _, err := os.Stat(filepath.Join(m.ConfigDir, name)); err != nil {
			t.Error(err)
		}
	}
	conf, err := server.ProcessConfigFile(filepath.Join(m.ConfigDir, "leaf.conf"))
	must(t, err)
	if conf.Host != "127.0.0.1" || conf.MQTT.Host != "127.0.0.1" || len(conf.Users)+len(conf.Nkeys) != 2 {
		t.Errorf("leaf.conf listens at %q and %q for %d users", conf.Host, conf.MQTT.Host, len(conf.Users)+len(conf.Nkeys))
	}
	must(t, join.Reset(t.Context(), m.Machine, false, o.Progress))
	if left := files(t, m); len(left) > 0 {
		t.Errorf("reset leaves %v", left)
	}
}

// badTokensAndURLs: each is refused before anything is done.
func badTokensAndURLs(t *testing.T, c *cloud, m *jointest.Machine) {
	good := c.token(time.Hour)
	for _, bad := range []struct{ url, token, want string }{
		{c.url(), "plant-a", "copy all of what"},
		{c.url(), good[:len(good)-40], "damaged or cut off"},
		{c.url(), strings.Replace(good, c.site, "plant-b", 1), "damaged"},
		{"ftp://hub", good, "want tls://HOST:7422"},
		{"tls://", good, "no host"},
	} {
		o := m.Options(bad.url, bad.token)
		o.Timeout = 20 * time.Second
		nothing(t, m, join.Run(t.Context(), m.Machine, o), bad.want)
	}
	if strings.Contains(good, "+") || strings.Contains(good, "/") {
		t.Error("the token has characters that a shell or a URL would need quoted")
	}
}

// expiredToken: the gateway itself says so. The hub does not let it in either.
func expiredToken(t *testing.T, c *cloud, m *jointest.Machine) {
	token := c.token(2 * time.Second)
	polltest.Eventually(t, "the token has expired", func() bool {
		parsed, err := wire.ParseToken(token)
		return err != nil || time.Now().After(parsed.Expires().Add(2*time.Second)) // the hub counts whole seconds
	})
	o := m.Options(c.url(), token)
	nothing(t, m, join.Run(t.Context(), m.Machine, o), "expired", "site rejoin "+c.site)
	// A gateway whose clock is slow asks the hub.
	m.Now = func() time.Time { return time.Now().Add(-time.Minute) }
	nothing(t, m, join.Run(t.Context(), m.Machine, o), "site rejoin "+c.site)
	if c.asked.Load() > 0 {
		t.Error("the bridge was asked")
	}
}

// refusedByTheBridge: what the bridge says is printed, and nothing is left.
func refusedByTheBridge(t *testing.T, c *cloud, m *jointest.Machine) {
	c.answer = func(wire.Received) wire.Answer {
		return wire.Answer{Code: wire.Used, Message: "the gateway U… has joined"}
	}
	err := join.Run(t.Context(), m.Machine, m.Options(c.url(), c.token(time.Hour)))
	nothing(t, m, err, "Used", "the gateway U… has joined")
	if !errors.Is(err, join.ErrRefused) {
		t.Error("not ErrRefused")
	}
}

// falseHub: a hub with a certificate of another authority learns nothing.
func falseHub(t *testing.T, c *cloud, m *jointest.Machine) {
	other, err := pki.NewAuthority(t.TempDir(), "ca")
	must(t, err)
	authority, err := os.ReadFile(other.CertFile)
	must(t, err)
	token := c.tokenWith(time.Hour, authority)
	nothing(t, m, join.Run(t.Context(), m.Machine, m.Options(c.url(), token)), "unknown authority", "not of the authority in the token")
	_, port, err := net.SplitHostPort(c.hub.LeafAddr())
	must(t, err)
	// The right authority, and a host that the certificate does not name.
	nothing(t, m, join.Run(t.Context(), m.Machine, m.Options("tls://localhost:"+port, c.token(time.Hour))), "does not name this host")
	if c.asked.Load() > 0 {
		t.Error("the bridge was asked")
	}
}

// clockOf1970 is a gateway whose clock has lost its battery.
func clockOf1970(t *testing.T, c *cloud, m *jointest.Machine) {
	m.Now = func() time.Time { return time.Unix(12, 0) }
	nothing(t, m, join.Run(t.Context(), m.Machine, m.Options(c.url(), c.token(time.Hour))), "[Clock]", "1970-01-01T00:00:12Z", "timedatectl")
}

// preflight lists everything that is missing, each with what to do.
func preflight(t *testing.T, c *cloud, m *jointest.Machine) {
	token := c.token(time.Hour)
	taken, err := net.Listen("tcp", porttest.Addr(t))
	must(t, err)
	defer taken.Close()
	m.UID, m.Addresses, m.Runtime.NoNetwork = 1000, append(m.Addresses, taken.Addr().String()), true
	must(t, os.WriteFile(filepath.Join(m.Root, "sys/fs/cgroup/cgroup.controllers"), []byte("cpu pids\n"), 0o600))
	must(t, os.WriteFile(filepath.Join(m.Root, "proc/sys/net/ipv4/ip_forward"), []byte("0\n"), 0o600))
	must(t, os.Remove(filepath.Join(m.Root, "usr/bin/petiole-kubelet")))
	o := m.Options(c.url(), token)
	nothing(t, m, join.Run(t.Context(), m.Machine, o), "[Root]", "sudo", "[Kubelet]", "/usr/bin/petiole-kubelet is missing", "[CNI]", "No CNI configuration file", "[Cgroups]", "memory",
		"[Ports]", taken.Addr().String(), "[Kernel]", "ip_forward", "--ignore-preflight")
	m.Runtime.NoNetwork = false
	must(t, os.Remove(filepath.Join(m.Root, "run/crio/crio.sock")))
	nothing(t, m, join.Run(t.Context(), m.Machine, o), "[Runtime]", "CRI-O or containerd")
	o.IgnorePreflight, o.NoStart = join.Checks(), true
	must(t, join.Run(t.Context(), m.Machine, o))
}

// services: a gateway for kube-proxy and CoreDNS has the settings that they need, and the kernel's is
// asked for.
func services(t *testing.T, c *cloud, m *jointest.Machine) {
	o := m.Options(c.url(), c.token(time.Hour))
	o.Services, o.NoStart = true, true
	nothing(t, m, join.Run(t.Context(), m.Machine, o), "[Kernel]", "modprobe br_netfilter")
	setting := filepath.Join(m.Root, "proc/sys/net/bridge/bridge-nf-call-iptables")
	must(t, os.MkdirAll(filepath.Dir(setting), 0o700))
	must(t, os.WriteFile(setting, []byte("1\n"), 0o600))
	must(t, join.Run(t.Context(), m.Machine, o))
	cfg := leaf.DefaultConfig()
	must(t, configfile.Load(filepath.Join(m.ConfigDir, "leaf.yaml"), &cfg))
	if want := "169.254.104.41:10444"; cfg.NodeAPI.Pods != want {
		t.Errorf("nodeAPI.pods is %q, want %s", cfg.NodeAPI.Pods, want)
	}
	if kubelet := readFile(t, m, "kubelet.yaml"); !strings.Contains(kubelet, "\nclusterDNS: [169.254.104.41]\nclusterDomain: cluster.local\n") {
		t.Errorf("kubelet.yaml has no DNS:\n%s", kubelet)
	}
}

// foreignFilesStay: what a person has configured is not overwritten.
func foreignFilesStay(t *testing.T, c *cloud, m *jointest.Machine) {
	path := filepath.Join(m.ConfigDir, "leaf.conf")
	must(t, os.MkdirAll(m.ConfigDir, 0o700))
	must(t, os.WriteFile(path, []byte("mine"), 0o600))
	failed(t, join.Run(t.Context(), m.Machine, m.Options(c.url(), c.token(time.Hour))), "[Files]", path, "move it away")
	if data, err := os.ReadFile(path); err != nil || string(data) != "mine" {
		t.Errorf("leaf.conf is %q, %v", data, err)
	}
}

// hubIsDown: nothing is left, and the same command succeeds when the hub is back.
func hubIsDown(t *testing.T, _ *cloud, m *jointest.Machine) {
	c := newCloud(t, natstest.StartTLSOperatorHub(t, "127.0.0.1"), "plant-down")
	up(t, m)
	o := m.Options(c.url(), c.token(time.Hour))
	c.hub.Stop()
	o.Timeout = 2 * time.Second
	var err error
	polltest.Eventually(t, "the hub was tried", func() bool {
		err = join.Run(t.Context(), m.Machine, o)
		return err == nil || strings.Contains(err.Error(), "connection refused")
	})
	nothing(t, m, err, "check host and port", "nothing was changed")
	c.hub.Restart(t)
	o.Timeout = time.Minute
	must(t, join.Run(t.Context(), m.Machine, o))
	complete(t, m)
}

// answerIsLost: the gateway keeps the key that the bridge may have accepted, and the same
// command completes the join with it.
func answerIsLost(t *testing.T, c *cloud, m *jointest.Machine) {
	up(t, m)
	var gateways []string
	accept := c.answer
	ctx, interrupt := context.WithCancel(t.Context())
	c.answer = func(r wire.Received) wire.Answer {
		gateways = append(gateways, r.Gateway)
		defer interrupt()
		return accept(r)
	}
	c.lost.Store(1000)
	o := m.Options(c.url(), c.token(time.Hour))
	err := join.Run(ctx, m.Machine, o)
	failed(t, err, "same command again")
	if !errors.Is(err, join.ErrUndecided) {
		t.Error("not ErrUndecided")
	}
	if left := files(t, m); !slices.Equal(left, []string{"join.json", "join.nk"}) {
		t.Errorf("files %v, want the key and the state alone", left)
	}
	c.lost.Store(0)
	must(t, join.Run(t.Context(), m.Machine, o))
	complete(t, m)
	if slices.Sort(gateways); len(slices.Compact(gateways)) != 1 {
		t.Errorf("the gateway asked with the keys %v", gateways)
	}
}

// smallDisk mounts a disk for a folder of a machine. Needs root.
func smallDisk(t *testing.T, dir, kilobytes string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o700))
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+kilobytes+"k"); err != nil {
		t.Fatalf("mount a small disk (needs root): %v", err)
	}
	t.Cleanup(func() { must(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
}

// fill writes to the disk of a folder until it is full.
func fill(t *testing.T, dir string) {
	f, err := os.Create(filepath.Join(dir, "fill"))
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	for size := 64 << 10; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}

// fullDisk: on a full disk the bridge is not asked. One that fills up while it is asked does
// no harm: there is room for the answer.
func fullDisk(t *testing.T, c *cloud, m *jointest.Machine) {
	up(t, m)
	token := c.token(time.Hour)
	smallDisk(t, m.ConfigDir, "1500")
	fill(t, m.ConfigDir)
	o := m.Options(c.url(), token)
	failed(t, join.Run(t.Context(), m.Machine, o), "no space left on device", "nothing was changed")
	if left := files(t, m); !slices.Equal(left, []string{"fill"}) || c.asked.Load() > 0 {
		t.Errorf("files %v; the bridge was asked %d times", left, c.asked.Load())
	}
	o.IgnorePreflight = nil
	failed(t, join.Run(t.Context(), m.Machine, o), "[Disk]", m.ConfigDir)
	o = m.Options(c.url(), token)
	must(t, os.Remove(filepath.Join(m.ConfigDir, "fill")))
	accept := c.answer
	c.answer = func(r wire.Received) wire.Answer {
		fill(t, m.ConfigDir)
		return accept(r)
	}
	must(t, join.Run(t.Context(), m.Machine, o))
	must(t, os.Remove(filepath.Join(m.ConfigDir, "fill")))
	complete(t, m)
}

// nearlyFullDisks: on a disk on which the kubelet would run no pods a gateway joins, for its devices,
// and says so.
func nearlyFullDisks(t *testing.T, c *cloud, m *jointest.Machine) {
	kubelet, images := filepath.Join(m.Root, "var/lib/kubelet"), filepath.Join(m.Root, "var/lib/containers")
	var said []string
	warnings := func() (n int) {
		o := m.Options(c.url(), c.token(time.Hour))
		o.IgnorePreflight, o.NoStart, said = nil, true, nil
		o.Progress = func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
		must(t, join.Run(t.Context(), m.Machine, o))
		must(t, join.Reset(t.Context(), m.Machine, true, o.Progress))
		for _, line := range said {
			if strings.HasPrefix(line, "warning: [Disk] the disk of "+m.Root) && strings.Contains(line, "evictionHard in "+m.ConfigDir) {
				n++
			}
		}
		return n
	}
	smallDisk(t, kubelet, "1500")
	smallDisk(t, images, "1500")
	m.Runtime.Images = images
	if n := warnings(); n != 0 {
		t.Errorf("%d warnings of empty disks: %q", n, said)
	}
	fill(t, kubelet)
	fill(t, images)
	if n := warnings(); n != 2 {
		t.Errorf("%d warnings of full disks, want 2: %q", n, said)
	}
}

// clonedDisk: of two machines with one disk the second is not let in, and is told what to do.
func clonedDisk(t *testing.T, c *cloud, m *jointest.Machine) {
	clone := jointest.New(t, "gw-2")
	up(t, m)
	up(t, clone)
	o := m.Options(c.url(), c.token(time.Hour))
	must(t, join.Run(t.Context(), m.Machine, o))
	must(t, os.CopyFS(clone.ConfigDir, os.DirFS(m.ConfigDir)))
	m.Connected(c.site)
	o.Timeout = 20 * time.Second
	err := join.Run(t.Context(), clone.Machine, o)
	failed(t, err, "cloned disk", "leaf reset")
}
