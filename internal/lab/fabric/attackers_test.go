package fabric

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/porttest"
	"github.com/petiole-io/petiole/leaf"
	"github.com/petiole-io/petiole/leaf/credential"
	"github.com/petiole-io/petiole/streams"
)

// The environment of this test's own processes: the gateway's, in a network namespace of its own,
// and an attacker's, with his plan in JSON.
const (
	gatewayEnv  = "PETIOLE_TEST_GATEWAY"
	attackerEnv = "PETIOLE_TEST_ATTACKER"
)

// The addresses of the gateway and of a pod, in namespaces of the test's own.
const (
	gatewayAddr = "10.199.7.1"
	podAddr     = "10.199.7.2"
)

// attacker is a kind of local process without a credential.
type attacker struct {
	name string
	uid  uint32
	// container: it sees the file system of its image, and none of the gateway's; it has no
	// capabilities, whoever it is.
	container bool
	// pod: it has a network namespace of its own, with a way to the gateway.
	pod bool
}

var attackers = []attacker{
	{name: "another user", uid: 1000},
	{name: "nobody", uid: 65534},
	{name: "root of a container in the host's network, without capabilities", container: true},
	{name: "user of a container in the host's network", uid: 10001, container: true},
	{name: "root of a container in the pod network, without capabilities", container: true, pod: true},
}

// plan is what an attacker tries.
type plan struct {
	// Hosts are the addresses at which he tries the ports.
	Hosts                        []string
	NATS, MQTT, NodeAPI, Metrics string
	// Sockets are the gateway's Unix sockets; Files and Folders what it has on disk. All are empty
	// for who does not see its file system.
	Sockets, Files, Folders []string
	PodSubject              string
}

// attempt is the result of one attack.
type attempt struct {
	What string
	// Succeeded is true if he got what a credential is for, Result what he got instead.
	Succeeded bool
	Result    string
}

// TestLocalAttackers runs a whole leaf with everything that listens on a gateway, and has each
// kind of local process without a credential try all of it. Each way is tried with the
// credential, too: it works.
func TestLocalAttackers(t *testing.T) {
	switch {
	case os.Getenv(attackerEnv) != "":
		attack(t)
	case os.Getenv(gatewayEnv) != "":
		runAttackedGateway(t)
	default:
		if os.Geteuid() != 0 {
			t.Fatal("this test creates network namespaces and changes its user: it needs root")
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestLocalAttackers$", "-test.v", "-test.timeout=4m")
		cmd.Env = append(os.Environ(), gatewayEnv+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		} else {
			t.Logf("%s", out)
		}
	}
}

// attackedGateway is a leaf with all of its listeners.
type attackedGateway struct {
	dir    string
	config leaf.Config
	listen Leaf
	nc     *nats.Conn
}

func runAttackedGateway(t *testing.T) {
	ip(t, "link", "set", "lo", "up")
	g := startAttackedGateway(t)
	g.checkListeners(t)
	before := g.desired(t)
	binary := filepath.Join(g.dir, "attacker")
	copyFile(t, os.Args[0], binary, 0o755)
	for _, a := range attackers {
		t.Run(a.name, func(t *testing.T) {
			attempts := g.attackAs(t, a, binary)
			for _, try := range attempts {
				if try.Succeeded {
					t.Errorf("%s: %s", try.What, try.Result)
				}
			}
			t.Logf("%d attempts, all in vain", len(attempts))
			if len(attempts) < 20 {
				t.Errorf("only %d attempts: %+v", len(attempts), attempts)
			}
		})
	}
	if after := g.desired(t); after != before {
		t.Errorf("SITE_DESIRED had the last sequence %d, now %d", before, after)
	}
}

func startAttackedGateway(t *testing.T) *attackedGateway {
	t.Helper()
	// The folders of an installation: everybody may enter the first.
	dir := t.TempDir()
	etc := filepath.Join(dir, "etc")
	must(t, os.MkdirAll(etc, 0o755))
	seed := filepath.Join(etc, "link.nk")
	_, err := credential.Seed(seed)
	must(t, err)
	g := &attackedGateway{dir: dir, config: leaf.DefaultConfig(), listen: Leaf{
		Site: "plant-a", Listen: porttest.Addr(t), MQTT: porttest.Addr(t), Store: filepath.Join(dir, "data", "js"),
		URL: "nats-leaf://" + porttest.Addr(t), SeedFile: seed,
	}}
	conf := filepath.Join(etc, "leaf.conf")
	must(t, RepoTemplates("../../..").WriteLeaf(conf, g.listen))
	c := &g.config
	c.Site, c.Node, c.DataDir, c.NATS.ConfigFile = "plant-a", "plant-a-1", filepath.Join(dir, "data"), conf
	c.NodeAPI.Listen, c.Metrics.Listen = porttest.Addr(t), porttest.Addr(t)
	c.Devices.DMISocket = filepath.Join(dir, "run", "dmi.sock")
	must(t, os.Mkdir(filepath.Join(dir, "run"), 0o755))
	must(t, c.Validate())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- leaf.New(*c, "test", zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel))).Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v", err)
		}
	})
	g.awaitLegitimate(t, done)
	return g
}

// awaitLegitimate waits until everything serves those who have a credential.
func (g *attackedGateway) awaitLegitimate(t *testing.T, done <-chan error) {
	t.Helper()
	seed, err := nats.NkeyOptionFromSeed(filepath.Join(UsersDir(g.config.NATS.ConfigFile), UserOperator+".nk"))
	must(t, err)
	polltest.Eventually(t, "the operator is let in", func() bool {
		select {
		case err := <-done:
			t.Fatalf("the leaf has ended: %v", err)
		default:
		}
		g.nc, err = nats.Connect("nats://"+g.listen.Listen, seed)
		return err == nil
	})
	t.Cleanup(g.nc.Close)
	password, err := credential.ReadPassword(filepath.Join(UsersDir(g.config.NATS.ConfigFile), UserApplication+".conf"))
	must(t, err)
	polltest.Eventually(t, "an application is let in over MQTT", func() bool { return connectMQTT(g.listen.MQTT, UserApplication, password) == nil })
	polltest.Eventually(t, "the node API serves the node", func() bool {
		rc, err := clientcmd.BuildConfigFromFlags("", filepath.Join(g.config.DataDir, leaf.KubeconfigName))
		if err != nil {
			return false
		}
		client, err := rest.HTTPClientFor(rc)
		must(t, err)
		status, _, err := fetch(client, http.MethodGet, "https://"+g.config.NodeAPI.Listen+"/api/v1/secrets", "")
		return err == nil && status == http.StatusOK
	})
	polltest.Eventually(t, "the mapper socket is there", func() bool {
		c, err := net.Dial("unix", g.config.Devices.DMISocket)
		return err == nil && c.Close() == nil
	})
	polltest.Eventually(t, "the metrics are there", func() bool {
		status, body, err := fetch(http.DefaultClient, http.MethodGet, "http://"+g.config.Metrics.Listen+"/metrics", "")
		return err == nil && status == http.StatusOK && strings.Contains(body, "petiole_leaf_")
	})
	polltest.Eventually(t, "SITE_DESIRED is there", func() bool { return g.tryDesired(t) == nil })
}

func (g *attackedGateway) tryDesired(t *testing.T) error {
	js, err := jetstream.New(g.nc)
	must(t, err)
	_, err = js.Stream(t.Context(), streams.SiteDesired)
	return err
}

// desired returns the last sequence of SITE_DESIRED.
func (g *attackedGateway) desired(t *testing.T) uint64 {
	t.Helper()
	js, err := jetstream.New(g.nc)
	must(t, err)
	s, err := js.Stream(t.Context(), streams.SiteDesired)
	must(t, err)
	return s.CachedInfo().State.LastSeq
}

// checkListeners fails if the gateway listens on what no attacker tries.
func (g *attackedGateway) checkListeners(t *testing.T) {
	t.Helper()
	tried := []string{g.listen.Listen, g.listen.MQTT, g.config.NodeAPI.Listen, g.config.Metrics.Listen}
	found := 0
	for _, addr := range listening(t) {
		if !slices.Contains(tried, addr) {
			t.Errorf("something listens on %s: it is not in docs/install.md, and not in this test", addr)
		}
		found++
	}
	if found != len(tried) {
		t.Errorf("%d listeners, want %d", found, len(tried))
	}
}

// listening returns the addresses on which the network namespace accepts TCP connections.
func listening(t *testing.T) (addrs []string) {
	t.Helper()
	for _, file := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		data, err := os.ReadFile(file)
		must(t, err)
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) < 4 || f[3] != "0A" {
				continue
			}
			host, port, ok := strings.Cut(f[1], ":")
			n, err := strconv.ParseUint(port, 16, 16)
			if !ok || err != nil {
				t.Fatalf("%s: %s", file, line)
			}
			name := host
			if host == "0100007F" {
				name = "127.0.0.1"
			}
			addrs = append(addrs, net.JoinHostPort(name, strconv.FormatUint(n, 10)))
		}
	}
	return addrs
}

// plan returns what an attacker of a kind tries.
func (g *attackedGateway) plan(t *testing.T, a attacker) plan {
	t.Helper()
	port := func(addr string) string {
		_, p, err := net.SplitHostPort(addr)
		must(t, err)
		return p
	}
	p := plan{
		Hosts: []string{"127.0.0.1"}, NATS: port(g.listen.Listen), MQTT: port(g.listen.MQTT), NodeAPI: port(g.config.NodeAPI.Listen), Metrics: port(g.config.Metrics.Listen),
		PodSubject: podSubject,
	}
	if a.pod {
		p.Hosts = []string{gatewayAddr, "127.0.0.1"}
	}
	if a.container {
		return p
	}
	p.Sockets = []string{g.config.Devices.DMISocket}
	must(t, filepath.WalkDir(g.dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			p.Folders = append(p.Folders, path)
		case d.Type().IsRegular() && d.Name() != "attacker":
			p.Files = append(p.Files, path)
		case d.Type()&fs.ModeSocket != 0 && path != g.config.Devices.DMISocket:
			p.Sockets = append(p.Sockets, path)
		}
		return nil
	}))
	if len(p.Files) < 10 {
		t.Errorf("the gateway has %d files: %q", len(p.Files), p.Files)
	}
	return p
}

// attackAs runs the attacks as a kind of process.
func (g *attackedGateway) attackAs(t *testing.T, a attacker, binary string) (attempts []attempt) {
	t.Helper()
	encoded, err := json.Marshal(g.plan(t, a))
	must(t, err)
	// setpriv changes the user, without his groups, and removes every capability.
	args := []string{
		"setpriv", "--reuid", fmt.Sprint(a.uid), "--regid", fmt.Sprint(a.uid), "--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs",
		binary, "-test.run=^TestLocalAttackers$", "-test.timeout=3m",
	}
	if a.pod {
		// It waits until its end of the pair is there.
		args = append([]string{"sh", "-c", "read line && ip addr add " + podAddr + "/30 dev eth0 && ip link set eth0 up && ip link set lo up && exec \"$@\"", "sh"}, args...)
	}
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "TMPDIR=/nonexistent", attackerEnv + "=" + string(encoded)}
	var out, failed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failed
	if a.pod {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		start, err := cmd.StdinPipe()
		must(t, err)
		must(t, cmd.Start())
		ip(t, "link", "add", "pod0", "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(cmd.Process.Pid))
		ip(t, "addr", "add", gatewayAddr+"/30", "dev", "pod0")
		ip(t, "link", "set", "pod0", "up")
		_, err = io.WriteString(start, "\n")
		must(t, err)
		must(t, start.Close())
		err = cmd.Wait()
		if err != nil {
			t.Fatalf("%v\n%s%s", err, &out, &failed)
		}
	} else if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s%s", err, &out, &failed)
	}
	for lines := bufio.NewScanner(&out); lines.Scan(); {
		if line, ok := bytes.CutPrefix(lines.Bytes(), []byte(attackerEnv+" ")); ok {
			must(t, json.Unmarshal(line, &attempts))
		}
	}
	return attempts
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func copyFile(t *testing.T, from, to string, mode os.FileMode) {
	t.Helper()
	data, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, data, mode))
}

// attack runs in the attacker's process: it tries everything, and prints what came of it.
func attack(t *testing.T) {
	var p plan
	must(t, json.Unmarshal([]byte(os.Getenv(attackerEnv)), &p))
	var attempts []attempt
	add := func(what string, succeeded bool, format string, args ...any) {
		attempts = append(attempts, attempt{what, succeeded, fmt.Sprintf(format, args...)})
	}
	// Without capabilities, whoever he is.
	status, err := os.ReadFile("/proc/self/status")
	must(t, err)
	if !bytes.Contains(status, []byte("CapEff:\t0000000000000000")) {
		t.Fatalf("the attacker has capabilities:\n%s", status)
	}
	for _, host := range p.Hosts {
		attackNATS(net.JoinHostPort(host, p.NATS), p.PodSubject, add)
		attackMQTT(net.JoinHostPort(host, p.MQTT), add)
		attackNodeAPI(net.JoinHostPort(host, p.NodeAPI), add)
		// The metrics are for everybody in the gateway's network; they must not have more than numbers.
		status, body, err := fetch(http.DefaultClient, http.MethodGet, "http://"+net.JoinHostPort(host, p.Metrics)+"/metrics", "")
		elsewhere := len(p.Hosts) > 1
		add("metrics at "+host, err == nil && (elsewhere || strings.Contains(body, "secret")), "status %d, error %v: %.2000s", status, err, body)
		for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/vars"} {
			status, body, err := fetch(http.DefaultClient, http.MethodGet, "http://"+net.JoinHostPort(host, p.Metrics)+path, "")
			add(path+" at "+host, err == nil && status == http.StatusOK, "status %d, error %v: %.200s", status, err, body)
		}
	}
	attackFiles(p, add)
	data, err := json.Marshal(attempts)
	must(t, err)
	fmt.Printf("%s %s\n", attackerEnv, data)
}

// addAttempt records the result of an attack.
type addAttempt func(what string, succeeded bool, format string, args ...any)

func attackNATS(addr, subject string, add addAttempt) {
	for name, opts := range map[string][]nats.Option{
		"without a user":                {},
		"as leaf, without a password":   {nats.UserInfo(UserLeaf, "")},
		"as leaf, with a guess":         {nats.UserInfo(UserLeaf, "leaf")},
		"as application, with a guess":  {nats.UserInfo(UserApplication, "application")},
		"as operator, with a password":  {nats.UserInfo(UserOperator, "")},
		"as gateway, the former user":   {nats.UserInfo("gateway", "")},
		"with a token":                  {nats.Token("token")},
		"with the account as the user":  {nats.UserInfo("SITE", "SITE")},
		"as a user of another's system": {nats.UserInfo("admin", "s3cr3t!")},
	} {
		nc, err := nats.Connect("nats://"+addr, append(opts, nats.MaxReconnects(0), nats.Timeout(5*time.Second))...)
		if err == nil {
			nc.Close()
		}
		add("NATS at "+addr+" "+name, err == nil, "%v", err)
	}
	// A client that does not wait until it is let in; runAttackedGateway looks whether anything is stored.
	for _, connect := range []string{`{}`, `{"verbose":false,"user":"leaf","pass":""}`} {
		c, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			add("NATS at "+addr+" without waiting", false, "%v", err)
			continue
		}
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = fmt.Fprintf(c, "CONNECT %s\r\nSUB desired.> 1\r\nPUB %s 2\r\n{}\r\nPING\r\n", connect, subject)
		answer, _ := io.ReadAll(c)
		_ = c.Close()
		add("NATS at "+addr+" without waiting", bytes.Contains(answer, []byte("PONG")) || bytes.Contains(answer, []byte("MSG ")), "%.500s", answer)
	}
}

func connectMQTT(addr, user, password string) error {
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + addr).SetClientID("attacker-" + user).SetUsername(user).SetPassword(password).
		SetConnectRetry(false).SetAutoReconnect(false).SetConnectTimeout(5 * time.Second))
	k := c.Connect()
	if !k.WaitTimeout(10 * time.Second) {
		return errors.New("no answer")
	}
	if k.Error() == nil {
		c.Disconnect(0)
	}
	return k.Error()
}

func attackMQTT(addr string, add addAttempt) {
	for _, user := range [][2]string{{"", ""}, {UserApplication, ""}, {UserApplication, "application"}, {UserLeaf, ""}, {UserOperator, ""}, {"gateway", ""}} {
		err := connectMQTT(addr, user[0], user[1])
		add(fmt.Sprintf("MQTT at %s as %q with %q", addr, user[0], user[1]), err == nil, "%v", err)
	}
}

func attackNodeAPI(addr string, add addAttempt) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for _, token := range []string{"", "Bearer guess", "Bearer ", "Basic cm9vdDpyb290"} {
		for _, try := range [][2]string{
			{http.MethodGet, "/api/v1/secrets"},
			{http.MethodGet, "/api/v1/pods"},
			{http.MethodGet, "/api/v1/pods?watch=1"},
			{http.MethodGet, "/api"},
			{http.MethodPost, "/api/v1/namespaces/default/pods"},
			{http.MethodPost, "/api/v1/namespaces/default/serviceaccounts/default/token"},
			{http.MethodDelete, "/api/v1/nodes/plant-a-1"},
			{http.MethodGet, "/debug/pprof/heap"},
			{http.MethodGet, "/metrics"},
			{http.MethodPost, "/api/v1/namespaces/default/pods/web/exec?command=id&stdout=1"},
			{http.MethodGet, "/api/v1/namespaces/default/pods/web/log"},
		} {
			status, body, err := fetch(client, try[0], "https://"+addr+try[1], token)
			add(fmt.Sprintf("%s %s at %s with %q", try[0], try[1], addr, token), err == nil && status != http.StatusUnauthorized, "status %d, error %v: %.200s", status, err, body)
		}
	}
	status, body, err := fetch(&http.Client{Timeout: 5 * time.Second}, http.MethodGet, "http://"+addr+"/api/v1/secrets", "")
	add("plain HTTP at "+addr, err == nil && status == http.StatusOK, "status %d, error %v: %.200s", status, err, body)
}

// fetch makes a request with an Authorization header, empty for none.
func fetch(client *http.Client, method, url, authorization string) (status int, body string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	r.Close = true // nothing may be left of it
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	answer, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	return answer.StatusCode, string(data), err
}

func attackFiles(p plan, add addAttempt) {
	sockets := slices.Clone(p.Sockets)
	// Abstract sockets are seen in the whole network namespace, and no file mode protects them. Those of
	// porttest are the test's own.
	data, err := os.ReadFile("/proc/self/net/unix")
	add("the table of Unix sockets", false, "%v", err)
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 8 && strings.HasPrefix(f[7], "@") && !strings.HasPrefix(f[7], "@petiole-test-port-") {
			sockets = append(sockets, f[7])
		}
	}
	for _, path := range sockets {
		c, err := net.DialTimeout("unix", path, 5*time.Second)
		if err == nil {
			_ = c.Close()
		}
		add("connect to "+path, err == nil, "%v", err)
	}
	for _, path := range p.Files {
		f, err := os.Open(path)
		if err == nil {
			_ = f.Close()
		}
		add("read "+path, err == nil, "%v", err)
		f, err = os.OpenFile(path, os.O_WRONLY, 0)
		if err == nil {
			_ = f.Close()
		}
		add("write "+path, err == nil, "%v", err)
	}
	for _, path := range p.Folders {
		f, err := os.OpenFile(filepath.Join(path, "attacker.conf"), os.O_WRONLY|os.O_CREATE, 0o600)
		if err == nil {
			_ = f.Close()
		}
		add("create a file in "+path, err == nil, "%v", err)
	}
}
