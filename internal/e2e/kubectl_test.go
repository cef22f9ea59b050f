package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/internal/e2e/rig"
	"github.com/petiole-io/petiole/internal/lab/cluster"
)

// shell is a pod of a kubectl test: its container counts lines until it is killed.
func shell(site *rig.Site, name, script string) *corev1.Pod {
	pod := sleeperPod(site, name, true)
	pod.Spec.Containers[0].Command = []string{"/bin/sh", "-c", script}
	return pod
}

// kubectl runs kubectl and returns what it prints on standard output and on standard error.
func kubectl(ctx context.Context, stdin io.Reader, args ...string) (out, errs string, err error) {
	cmd := lab.Command(ctx, lab.Bin("kubectl"), args...)
	var o, e bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &o, &e
	err = cmd.Run()
	return o.String(), e.String(), err
}

// TestKubectl is what everybody tries first on a node: kubectl through the link.
func TestKubectl(t *testing.T) {
	site := lab.Sites[0]
	ns := newNamespace(t, "kubectl")
	for _, pod := range []*corev1.Pod{
		shell(site, "counter", `i=0; while true; do echo line $i; i=$((i+1)); sleep 1; done`),
		shell(site, "dying", `echo first life; sleep 2; exit 3`),
		shell(site, "reader", `while read line; do echo "got $line"; done; sleep 3600`),
	} {
		pod.Spec.Containers[0].Stdin = pod.Name == "reader"
		_, err := lab.Kube.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{})
		must(t, err)
	}
	half := shell(site, "half", "sleep 3600")
	half.Spec.RestartPolicy = corev1.RestartPolicyNever
	half.Spec.Containers = append(half.Spec.Containers, corev1.Container{Name: "ended", Image: lab.Image("sleeper"), Command: []string{"/bin/echo", "last words"}})
	createPod(t, ns, half)
	_, err := lab.Kube.AppsV1().Deployments(ns).Create(t.Context(), webDeployment(site, "web", 1), metav1.CreateOptions{})
	must(t, err)
	configMap(t, ns, settingsName, map[string]string{"greeting": "one"})
	secret(t, ns, credentialsName, map[string]string{"password": "open sesame"})
	eventually(t, time.Minute, "the pods run", func(ctx context.Context) error {
		for _, app := range []string{"counter", "reader", "web"} {
			if err := allReady(ns, "app="+app, 1)(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	k := func(t *testing.T, stdin io.Reader, args ...string) string {
		t.Helper()
		out, errs, err := kubectl(t.Context(), stdin, append([]string{"-n", ns}, args...)...)
		if err != nil {
			t.Fatalf("kubectl %v: %v\n%s%s", args, err, out, errs)
		}
		return out
	}
	refused := func(t *testing.T, want string, args ...string) {
		t.Helper()
		out, errs, err := kubectl(t.Context(), nil, append([]string{"-n", ns}, args...)...)
		if err == nil || !strings.Contains(errs, want) {
			t.Errorf("kubectl %v: %v, want %q\n%s%s", args, err, want, out, errs)
		}
	}

	t.Run("logs", func(t *testing.T) {
		eventually(t, time.Minute, "the first lines of a log", func(ctx context.Context) error {
			out, errs, err := kubectl(ctx, nil, "-n", ns, "logs", "counter")
			if err != nil || !strings.HasPrefix(out, "line 0\nline 1\n") {
				return fmt.Errorf("%q, %s: %w", out, errs, err)
			}
			return nil
		})
		if out := k(t, nil, "logs", "--tail=1", "counter"); strings.Count(out, "\n") != 1 {
			t.Errorf("logs --tail=1: %q", out)
		}
		eventually(t, time.Minute, "the log of the container before", func(ctx context.Context) error {
			out, errs, err := kubectl(ctx, nil, "-n", ns, "logs", "--previous", "dying")
			if err != nil || out != "first life\n" {
				return fmt.Errorf("%q, %s: %w", out, errs, err)
			}
			return nil
		})
		refused(t, "container nosuch is not valid for pod counter", "logs", "counter", "-c", "nosuch")
	})
	t.Run("logs -f shows lines as they are written", func(t *testing.T) { testFollow(t, ns) })
	t.Run("exec", func(t *testing.T) {
		if out := k(t, nil, "exec", "counter", "--", "sh", "-c", "echo out; echo err >&2"); out != "out\n" {
			t.Errorf("standard output: %q", out)
		}
		text := strings.Repeat("the quick brown fox\n", 50_000)
		if out := k(t, strings.NewReader(text), "exec", "-i", "counter", "--", "cat"); out != text {
			t.Errorf("%d bytes of %d came back", len(out), len(text))
		}
		_, _, err := kubectl(t.Context(), nil, "-n", ns, "exec", "counter", "--", "sh", "-c", "exit 7")
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 7 {
			t.Errorf("exit 7: %v", err)
		}
		refused(t, "not found", "exec", "counter", "--", "nosuchprogram")
	})
	t.Run("what is gone or never was", func(t *testing.T) {
		eventually(t, time.Minute, "one of two containers has ended", func(ctx context.Context) error {
			out, errs, err := kubectl(ctx, nil, "-n", ns, "logs", "half", "-c", "ended")
			if err != nil || out != "last words\n" {
				return fmt.Errorf("%q, %s: %w", out, errs, err)
			}
			_, errs, err = kubectl(ctx, nil, "-n", ns, "exec", "half", "-c", "ended", "--", "true")
			if want := `container not found ("ended")`; err == nil || !strings.Contains(errs, want) {
				return fmt.Errorf("exec: %w, %q, want %q", err, errs, want)
			}
			return nil
		})
		refused(t, `previous terminated container "sleeper" in pod "counter" not found`, "logs", "--previous", "counter")
		refused(t, `nodes "nosuch" not found`, "get", "--raw", "/api/v1/nodes/nosuch/proxy/healthz")
		refused(t, `pods "nosuch" not found`, "logs", "nosuch")
	})
	t.Run("attach", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if out, errs, err := kubectl(ctx, strings.NewReader("hello\n"), "-n", ns, "attach", "-i", "reader"); err != nil {
			t.Fatalf("attach: %v, %q, %q", err, out, errs)
		}
		eventually(t, time.Minute, "the container has read what was typed", func(ctx context.Context) error {
			out, errs, err := kubectl(ctx, nil, "-n", ns, "logs", "reader")
			if err != nil || out != "got hello\n" {
				return fmt.Errorf("%q, %s: %w", out, errs, err)
			}
			return nil
		})
	})
	t.Run("debug", func(t *testing.T) {
		k(t, nil, "debug", "counter", "--image="+lab.Image("sleeper"), "--container=debugger", "--", "sh", "-c", "echo debugged; sleep 3600")
		eventually(t, time.Minute, "the ephemeral container's log", func(ctx context.Context) error {
			out, errs, err := kubectl(ctx, nil, "-n", ns, "logs", "counter", "-c", "debugger")
			if err != nil || out != "debugged\n" {
				return fmt.Errorf("%q, %s: %w", out, errs, err)
			}
			return nil
		})
	})
	t.Run("cp of 100 MB", func(t *testing.T) { testCopy(t, ns, 100_000_000) })
	t.Run("port-forward", func(t *testing.T) { testPortForward(t, ns) })
	t.Run("node proxy and metrics", func(t *testing.T) {
		for path, want := range map[string]string{
			"proxy/configz": `"kubeletconfig"`, "proxy/metrics/resource": "node_cpu_usage_seconds_total", "proxy/pods": `"counter"`, "proxy/healthz": "ok",
		} {
			if out := k(t, nil, "get", "--raw", "/api/v1/nodes/"+site.Node+"/"+path); !strings.Contains(out, want) {
				t.Errorf("%s has no %q", path, want)
			}
		}
		testScrape(t, site)
	})
	t.Run("50 sessions beside one that nobody reads", func(t *testing.T) { testSessions(t, site, ns) })
	t.Run("a cut link ends the sessions", func(t *testing.T) { testSessionsEnd(t, site, ns) })
}

func testFollow(t *testing.T, ns string) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := lab.Command(ctx, lab.Bin("kubectl"), "-n", ns, "logs", "-f", "--tail=1", "counter")
	out := got[io.ReadCloser](t)(cmd.StdoutPipe())
	must(t, cmd.Start())
	lines := bufio.NewScanner(out)
	for range 3 {
		if !lines.Scan() {
			t.Fatalf("the log ended: %v", lines.Err())
		}
	}
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed
}

// testCopy copies a file to a container and back.
func testCopy(t *testing.T, ns string, size int) {
	dir := t.TempDir()
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(data) // never fails
	there, back := filepath.Join(dir, "there"), filepath.Join(dir, "back")
	must(t, os.WriteFile(there, data, 0o600))
	for _, c := range []struct{ what, from, to string }{
		{"to the site", there, ns + "/counter:/tmp/copy"}, {"from the site", ns + "/counter:/tmp/copy", back},
	} {
		start := time.Now()
		if out, errs, err := kubectl(t.Context(), nil, "cp", c.from, c.to); err != nil {
			t.Fatalf("cp %s: %v\n%s%s", c.what, err, out, errs)
		}
		took := time.Since(start)
		t.Logf("MEASURED kubectl cp of %d MB %s: %s, %.0f Mbit/s", size/1e6, c.what, took.Round(time.Millisecond), float64(size)*8/took.Seconds()/1e6)
	}
	copied := got[[]byte](t)(os.ReadFile(back))
	if sha256.Sum256(copied) != sha256.Sum256(data) {
		t.Errorf("%d bytes came back, and are not the %d that were copied", len(copied), len(data))
	}
	_, _, err := kubectl(t.Context(), nil, "-n", ns, "exec", "counter", "--", "rm", "/tmp/copy")
	must(t, err)
}

var forwarding = regexp.MustCompile(`Forwarding from 127\.0\.0\.1:(\d+) `)

func testPortForward(t *testing.T, ns string) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := lab.Command(ctx, lab.Bin("kubectl"), "-n", ns, "port-forward", "deploy/web", ":8080", ":9")
	out := got[io.ReadCloser](t)(cmd.StdoutPipe())
	var errs bytes.Buffer
	cmd.Stderr = &errs
	must(t, cmd.Start())
	var ports []string
	for lines := bufio.NewScanner(out); len(ports) < 2 && lines.Scan(); {
		if m := forwarding.FindStringSubmatch(lines.Text()); m != nil {
			ports = append(ports, m[1])
		}
	}
	if len(ports) == 2 {
		answer, err := http.Get("http://127.0.0.1:" + ports[0] + settingsDir + "greeting")
		must(t, err)
		body := got[[]byte](t)(io.ReadAll(answer.Body))
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK || string(body) != "one" {
			t.Errorf("the forwarded port: %s, %q", answer.Status, body)
		}
		if answer, err := http.Get("http://127.0.0.1:" + ports[1] + "/"); err == nil {
			answer.Body.Close()
			t.Errorf("a port that nobody listens at: %s", answer.Status)
		}
	}
	_ = cmd.Process.Kill() // it may have ended by itself
	_ = cmd.Wait()
	if len(ports) != 2 || !strings.Contains(errs.String(), "onnection refused") {
		t.Errorf("ports %v, errors %q", ports, errs.String())
	}
}

// testScrape reads a node's metrics as a metrics-server does, and tries it as others.
func testScrape(t *testing.T, site *rig.Site) {
	node := got[*corev1.Node](t)(lab.Kube.CoreV1().Nodes().Get(t.Context(), site.Node, metav1.GetOptions{}))
	path := node.Annotations["metrics.k8s.io/resource-metrics-path"]
	url := fmt.Sprintf("https://%s:%d%s", node.Status.Addresses[0].Address, node.Status.DaemonEndpoints.KubeletEndpoint.Port, path)
	dir := filepath.Join(lab.Dir, "controlplane")
	trusted := got[tls.Certificate](t)(tls.LoadX509KeyPair(filepath.Join(dir, "kubelet-client.crt"), filepath.Join(dir, "kubelet-client.key")))
	for _, c := range []struct {
		what   string
		certs  []tls.Certificate
		status int
	}{{"the API server", []tls.Certificate{trusted}, http.StatusOK}, {"nobody", nil, http.StatusUnauthorized}} {
		client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: c.certs}, DisableKeepAlives: true}}
		answer, err := client.Get(url)
		must(t, err)
		answer.Body.Close()
		if answer.StatusCode != c.status {
			t.Errorf("%s at %s: %s, want %d", c.what, url, answer.Status, c.status)
		}
	}
	if conn, err := site.Dial(t.Context(), "tcp", cluster.KubeletsAddress+":10250"); err == nil {
		conn.Close()
		t.Error("a site reaches the bridge's kubelet API")
	}
}

// testSessions runs as many commands at the same time, beside one that never reads what it is sent,
// and changes desired state meanwhile.
func testSessions(t *testing.T, site *rig.Site, ns string) {
	ctx, cancel := context.WithCancel(t.Context())
	var stuck sync.WaitGroup
	defer stuck.Wait()
	defer cancel()
	stuck.Go(func() {
		zero, err := os.Open("/dev/zero")
		if err != nil {
			t.Error(err)
			return
		}
		defer zero.Close()
		_, _, _ = kubectl(ctx, zero, "-n", ns, "exec", "-i", "counter", "--", "sleep", "3600") // until cancel
	})
	start := time.Now()
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			want := fmt.Sprintf("session %d\n", i)
			if out, errs, err := kubectl(t.Context(), strings.NewReader(want), "-n", ns, "exec", "-i", "counter", "--", "cat"); err != nil || out != want {
				t.Errorf("session %d: %v, %q, %q", i, err, out, errs)
			}
		})
	}
	wg.Wait()
	t.Logf("MEASURED 50 kubectl exec at the same time: %s", time.Since(start).Round(time.Millisecond))
	pods := got[[]corev1.Pod](t)(podsOf(t.Context(), ns, "app=web"))
	setConfigMap(t, ns, settingsName, map[string]string{"greeting": "two"})
	took := eventually(t, time.Minute, "desired state arrives", fileIs(site, string(pods[0].UID), settingsDir+"greeting", "two"))
	t.Logf("MEASURED ConfigMap edit → mounted file beside a stuck session: %s", took.Round(time.Millisecond))
}

// firstWrite keeps what is written, and sends when it begins.
type firstWrite struct {
	text    bytes.Buffer // not embedded: its ReadFrom would pass by Write
	written chan<- struct{}
}

func (w *firstWrite) Write(p []byte) (int, error) {
	if w.text.Len() == 0 {
		w.written <- struct{}{}
	}
	return w.text.Write(p)
}

// testSessionsEnd cuts the link below an exec and a log, without a word to either end.
func testSessionsEnd(t *testing.T, site *rig.Site, ns string) {
	ended := make(chan string, 2)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	opened := make(chan struct{}, 2)
	for _, args := range [][]string{{"exec", "counter", "--", "sh", "-c", "echo open; sleep 3600"}, {"logs", "-f", "counter"}} {
		go func() {
			start, out := time.Now(), &firstWrite{written: opened}
			cmd := lab.Command(ctx, lab.Bin("kubectl"), append([]string{"-n", ns}, args...)...)
			var errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = out, &errs
			err := cmd.Run()
			t.Logf("kubectl %s ended after %s: %v, %q", args[0], time.Since(start).Round(time.Second), err, errs.String())
			ended <- out.text.String() + errs.String()
		}()
	}
	for range 2 {
		select {
		case <-opened:
		case text := <-ended:
			t.Fatalf("a session ended before the cut: %q", text)
		}
	}
	must(t, lab.CutSilently(t.Context(), site))
	healed := false
	heal := func() {
		if !healed {
			healed = true
			must(t, lab.Heal(context.WithoutCancel(t.Context()), site))
		}
	}
	defer heal()
	start := time.Now()
	texts := <-ended + <-ended
	if !strings.Contains(texts, "the log ends here: the link to site "+site.Name+" was lost") || !strings.Contains(texts, "unexpected EOF") {
		t.Errorf("no word about the link: %q", texts)
	}
	measured(t, "silent cut → sessions end", time.Since(start), 15*time.Second)
	eventually(t, time.Minute, "a request names the site that is away", func(ctx context.Context) error {
		_, errs, err := kubectl(ctx, nil, "-n", ns, "logs", "counter")
		if want := "node " + site.Node + ": its site " + site.Name + " is away since "; err == nil || !strings.Contains(errs, want) {
			return fmt.Errorf("logs: %w, %q", err, errs)
		}
		if _, errs, err := kubectl(ctx, nil, "-n", ns, "exec", "counter", "--", "true"); err == nil || !strings.Contains(errs, "is away since") {
			return fmt.Errorf("exec: %w, %q", err, errs)
		}
		return nil
	})
	testGateway(t, site, ns)
	heal()
	took := eventually(t, time.Minute, "logs after the heal", func(ctx context.Context) error {
		_, errs, err := kubectl(ctx, nil, "-n", ns, "logs", "--tail=1", "counter")
		if err != nil {
			return fmt.Errorf("%w: %s", err, errs)
		}
		return nil
	})
	t.Logf("MEASURED heal → kubectl logs: %s", took.Round(time.Millisecond))
}

// testGateway runs kubectl on the gateway, whose link is cut.
func testGateway(t *testing.T, site *rig.Site, ns string) {
	t.Helper()
	here := func(stdin io.Reader, args ...string) string {
		t.Helper()
		args = append([]string{"exec", site.Name, lab.Bin("kubectl"), "--kubeconfig", lab.NodeKubeconfig(site), "-n", ns}, args...)
		cmd := lab.Command(t.Context(), lab.Bin("lab"), args...)
		var out, errs bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
		if err := cmd.Run(); err != nil {
			t.Errorf("on the gateway: kubectl %v: %v\n%s%s", args[5:], err, out.String(), errs.String())
		}
		return out.String()
	}
	if out := here(nil, "logs", "--tail=1", "counter", "-c", "sleeper"); !strings.HasPrefix(out, "line ") {
		t.Errorf("logs on the gateway: %q", out)
	}
	if out := here(strings.NewReader("hello"), "exec", "-i", "counter", "-c", "sleeper", "--", "cat"); out != "hello" {
		t.Errorf("exec on the gateway: %q", out)
	}
}
