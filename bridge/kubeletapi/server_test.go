package kubeletapi

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/internal/lab/pki"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams/tunnel"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// away is since when plant-b is disconnected.
var away = time.Date(2026, 11, 26, 9, 30, 0, 0, time.UTC)

// fixture is a server, the API server's client certificate for it, and the kubelet of plant-a-1.
type fixture struct {
	url      string
	trusted  tls.Certificate
	stranger tls.Certificate
	server   *Server
	// seen are the requests that reached the kubelet.
	seen chan *http.Request
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{seen: make(chan *http.Request, 100)}
	hub := natstest.StartHub(t, "plant-a", "plant-b")

	kubelet := httptest.NewServer(http.HandlerFunc(f.kubelet))
	t.Cleanup(kubelet.Close)
	ctx, cancel := context.WithCancel(t.Context())
	site := tunnel.NewServer(tunnel.ServerConfig{
		Site: "plant-a", Node: "plant-a-1", NC: hub.Connect(t, "plant-a"), Timing: tunnel.DefaultTiming, Log: zap.NewNop(),
		Dial: func(ctx context.Context) (tunnel.Backend, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", kubelet.Listener.Addr().String())
			if err != nil {
				return nil, err
			}
			return c.(*net.TCPConn), nil
		},
	})
	done := make(chan error, 1)
	go func() { done <- site.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	dialer, err := tunnel.NewDialer(hub.Connect(t, "bridge"), tunnel.DefaultTiming, zap.NewNop())
	must(t, err)
	t.Cleanup(dialer.Close)

	dir := t.TempDir()
	ca, err := pki.NewAuthority(dir, "ca")
	must(t, err)
	other, err := pki.NewAuthority(dir, "other")
	must(t, err)
	serving, err := ca.Issue(dir, "serving", pki.Subject{Name: "bridge", Hosts: []string{"127.0.0.1"}})
	must(t, err)
	f.trusted, f.stranger = client(t, ca, dir, "trusted"), client(t, other, dir, "stranger")
	f.server, err = New(Config{
		CertFile: serving.CertFile, KeyFile: serving.KeyFile, ClientCAFile: ca.CertFile, Client: apiServer(t), Tunnel: dialer, Log: zap.NewNop(),
	})
	must(t, err)
	t.Cleanup(f.server.transport.CloseIdleConnections)
	running := make(chan struct{})
	go func() { defer close(running); f.server.access.run(ctx) }()
	t.Cleanup(func() { cancel(); <-running })
	server := httptest.NewUnstartedServer(f.server)
	server.TLS, err = f.server.tls()
	must(t, err)
	server.StartTLS()
	t.Cleanup(server.Close)
	f.url = server.URL
	polltest.Eventually(t, "the site receives", func() bool {
		status, _ := f.get(t, &f.trusted, "/nodes/plant-a-1/healthz", nil)
		return status == http.StatusOK
	})
	for len(f.seen) > 0 {
		<-f.seen
	}
	return f
}

// client returns a client certificate with the name of the API server's.
func client(t *testing.T, ca *pki.Authority, dir, file string) tls.Certificate {
	t.Helper()
	pair, err := ca.Issue(dir, file, pki.Subject{Name: "kube-apiserver-kubelet-client", Groups: []string{"kubeadm:cluster-admins"}})
	must(t, err)
	c, err := tls.LoadX509KeyPair(pair.CertFile, pair.KeyFile)
	must(t, err)
	return c
}

// kubelet answers with what it was asked for, and echoes after an upgrade.
func (f *fixture) kubelet(w http.ResponseWriter, r *http.Request) {
	f.seen <- r.Clone(context.Background())
	if r.Header.Get("Upgrade") == "" {
		fmt.Fprint(w, r.URL.Path)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
	_ = rw.Flush()
	_, _ = io.Copy(conn, rw)
}

// apiServer returns a client of an API server that has nodes of two sites and of none, and lets its
// own client certificate do everything, and the holder of a token read metrics.
func apiServer(t *testing.T) kubernetes.Interface {
	t.Helper()
	node := func(name, site string, conditions ...corev1.NodeCondition) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1alpha1.SiteLabel: site}}, Status: corev1.NodeStatus{Conditions: conditions}}
	}
	pod := func(name, node string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: corev1.PodSpec{NodeName: node}}
	}
	objects := map[string]any{
		"/api/v1/nodes/plant-a-1": node("plant-a-1", "plant-a"), "/api/v1/nodes/plant-a-2": node("plant-a-2", "plant-a"), "/api/v1/nodes/cloud-1": node("cloud-1", ""),
		"/api/v1/nodes/plant-b-1": node("plant-b-1", "plant-b", corev1.NodeCondition{
			Type: v1alpha1.SiteConnectedCondition, Status: corev1.ConditionFalse, LastTransitionTime: metav1.NewTime(away),
		}),
	}
	for name, node := range map[string]string{"web": "plant-a-1", "away": "plant-b-1", "cloud": "cloud-1", "pending": ""} {
		objects["/api/v1/namespaces/shop/pods/"+name] = pod(name, node)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		answer, status := objects[r.URL.Path], http.StatusOK
		switch {
		case strings.HasSuffix(r.URL.Path, "/tokenreviews"):
			var review authenticationv1.TokenReview
			_ = json.NewDecoder(r.Body).Decode(&review) // an empty review is refused
			review.Status = authenticationv1.TokenReviewStatus{Authenticated: review.Spec.Token == "good", User: authenticationv1.UserInfo{Username: "metrics-server"}}
			answer = review
		case strings.HasSuffix(r.URL.Path, "/subjectaccessreviews"):
			var review authorizationv1.SubjectAccessReview
			_ = json.NewDecoder(r.Body).Decode(&review)
			what := review.Spec.ResourceAttributes
			review.Status.Allowed = what != nil && what.Resource == "nodes" && (slices.Contains(review.Spec.Groups, "kubeadm:cluster-admins") ||
				review.Spec.User == "metrics-server" && what.Subresource == "metrics" && what.Verb == "get" && what.Name == "plant-a-1")
			answer = review
		case answer == nil:
			answer, status = metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonNotFound, Code: http.StatusNotFound}, http.StatusNotFound
		}
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(answer) // the client may have gone away
	}))
	t.Cleanup(server.Close)
	c, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL, QPS: -1})
	must(t, err)
	return c
}

func (f *fixture) get(t *testing.T, cert *tls.Certificate, path string, header http.Header) (int, string) {
	t.Helper()
	cfg := &tls.Config{InsecureSkipVerify: true}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	transport := &http.Transport{TLSClientConfig: cfg}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+path, nil)
	must(t, err)
	for k, v := range header {
		r.Header[k] = v
	}
	answer, err := (&http.Client{Transport: transport}).Do(r)
	must(t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	must(t, err)
	return answer.StatusCode, strings.TrimSpace(string(body))
}

// A request reaches the kubelet of the node that it names, or none.
func TestRequestsReachTheirNode(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	proxied := func(uri string) http.Header { return http.Header{forwardedURI: {uri}} }
	upgrade := func(h http.Header) http.Header {
		h.Set("Connection", "Upgrade")
		h.Set("Upgrade", "SPDY/3.1")
		return h
	}
	for _, c := range []struct {
		what, path string
		header     http.Header
		status     int
		want       string
	}{
		{"a pod's log", "/containerLogs/shop/web/web", nil, 200, "/containerLogs/shop/web/web"},
		{"an exec with a UID", "/exec/shop/web/uid/web", nil, 200, "/exec/shop/web/uid/web"},
		{"a node's path", "/nodes/plant-a-1/stats/summary", nil, 200, "/stats/summary"},
		{"the API server's node proxy", "/pods", proxied("/api/v1/nodes/plant-a-1/proxy/pods"), 200, "/pods"},
		{"the same with scheme and port", "/pods/", proxied("/api/v1/nodes/https:plant-a-1:10250/proxy/pods/"), 200, "/pods/"},
		{"a pod through the proxy of its node", "/containerLogs/shop/web/web", proxied("/api/v1/nodes/plant-a-1/proxy/containerLogs/shop/web/web"), 200, "/containerLogs/shop/web/web"},
		{"a pod through the proxy of another node", "/containerLogs/shop/web/web", proxied("/api/v1/nodes/plant-b-1/proxy/containerLogs/shop/web/web"), 404, `pod shop/web is not on node "plant-b-1"`},
		{"a node through the proxy of another", "/nodes/plant-a-1/pods", proxied("/api/v1/nodes/plant-b-1/proxy/nodes/plant-a-1/pods"), 404, `node "plant-b-1" does not serve node "plant-a-1"`},
		{"a node that its client claims", "/pods", upgrade(proxied("/api/v1/nodes/plant-a-1/proxy/pods")), 400, "only paths that name a pod"},
		{"another protocol on a node's path", "/nodes/plant-a-1/pods", upgrade(http.Header{}), 400, "only paths that name a pod"},
		{"a path without a node", "/pods", nil, 404, "must name a pod"},
		{"another path of the API server", "/pods", proxied("/api/v1/nodes/plant-a-1/status"), 404, "must name a pod"},
		{"an unknown node", "/nodes/nowhere/pods", nil, 404, `node "nowhere" not found`},
		{"a node at no site", "/containerLogs/shop/cloud/c", nil, 404, `node "cloud-1" is at no site`},
		{"an unknown pod", "/containerLogs/shop/gone/c", nil, 404, `pod "gone" not found in namespace "shop"`},
		{"a pod without a node", "/containerLogs/shop/pending/c", nil, 400, "bound to no node yet"},
		{"a site that is away", "/containerLogs/shop/away/c", nil, 500, "node plant-b-1: its site plant-b is away since 2026-11-26T09:30:00Z"},
		{"a leaf that is away", "/nodes/plant-a-2/pods", nil, 500, "node plant-a-2: its site plant-a is away"},
	} {
		status, body := f.get(t, &f.trusted, c.path, c.header)
		if status != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %q, want %d %q", c.what, status, body, c.status, c.want)
		}
	}
}

// Whoever is not known gets 401, who may not 403, and no request of theirs reaches a kubelet.
func TestAccess(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	bearer := func(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }
	for _, c := range []struct {
		what, path string
		cert       *tls.Certificate
		header     http.Header
		status     int
	}{
		{"nobody", "/containerLogs/shop/web/web", nil, nil, 401},
		{"a certificate of another authority", "/containerLogs/shop/web/web", &f.stranger, nil, 401},
		{"an unknown token", "/nodes/plant-a-1/metrics/resource", nil, bearer("bad"), 401},
		{"a token that may read metrics", "/nodes/plant-a-1/metrics/resource", nil, bearer("good"), 200},
		{"the same of another node", "/nodes/plant-a-2/metrics/resource", nil, bearer("good"), 403},
		{"a token that may not run anything", "/exec/shop/web/web", nil, bearer("good"), 403},
		{"a forged header", "/pods", nil, http.Header{"Authorization": {"Bearer good"}, forwardedURI: {"/api/v1/nodes/plant-a-1/proxy/pods"}}, 403},
	} {
		if status, body := f.get(t, c.cert, c.path, c.header); status != c.status {
			t.Errorf("%s: %d %q, want %d", c.what, status, body, c.status)
		}
	}
	if n := len(f.seen); n != 1 {
		t.Errorf("%d requests reached the kubelet, want 1", n)
	}
	if r := <-f.seen; r.Header.Get("Authorization") != "" || r.URL.Path != "/metrics/resource" {
		t.Errorf("the kubelet got %s with the token %q", r.URL.Path, r.Header.Get("Authorization"))
	}
}

// An upgraded connection carries bytes both ways, as exec and port-forward need it.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	conn, err := tls.Dial("tcp", strings.TrimPrefix(f.url, "https://"), &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{f.trusted}, NextProtos: []string{"http/1.1"}})
	must(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "POST /exec/shop/web/web?command=cat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
	must(t, err)
	r := bufio.NewReader(conn)
	answer, err := http.ReadResponse(r, nil)
	must(t, err)
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %s", answer.Status)
	}
	for range 3 {
		_, err := io.WriteString(conn, "ping\n")
		must(t, err)
		if line, err := r.ReadString('\n'); err != nil || line != "ping\n" {
			t.Fatalf("%q, %v", line, err)
		}
	}
	if got := (<-f.seen).URL.RawQuery; got != "command=cat" {
		t.Errorf("the kubelet got the query %q", got)
	}
}

// The subresources are upstream's.
func TestSubresources(t *testing.T) {
	t.Parallel()
	for path, want := range map[string][]string{
		"/exec/shop/web/web": {"proxy"}, "/containerLogs/shop/web/web": {"proxy"}, "/stats/summary": {"stats"}, "/metrics": {"metrics"}, "/metrics/cadvisor": {"metrics"},
		"/metricsandmore": {"proxy"}, "/logs/": {"log"}, "/pods": {"pods", "proxy"}, "/runningpods/": {"pods", "proxy"}, "/healthz/ping": {"healthz", "proxy"},
		"/configz": {"configz", "proxy"}, "/checkpoint/shop/web/web": {"checkpoint"}, "/statusz": {"statusz"}, "/flagz": {"configz"}, "/": {"proxy"},
	} {
		if got := subresources(path); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
}

// A log that is cut off says so in its last line.
func TestLogThatIsCutOff(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]string{
		tunnel.ErrSilent: "line\n\nthe log ends here: the link to site plant-a was lost\n", io.EOF: "line\n",
		fmt.Errorf("%w: disk", tunnel.ErrReset): "line\n\nthe log ends here: ended by the other end: disk\n",
	} {
		body := &logBody{ReadCloser: io.NopCloser(io.MultiReader(strings.NewReader("line\n"), iotest.ErrReader(err))), node: &node{site: "plant-a"}}
		if got, readErr := io.ReadAll(body); readErr != nil || string(got) != want {
			t.Errorf("%v: %q, %v", err, got, readErr)
		}
	}
}
