package nodeapi

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

const (
	site = "plant-a"
	node = "plant-a-1"
	wait = 10 * time.Second
)

func TestMain(m *testing.M) {
	klog.StopFlushDaemon()
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"))
}

// leaf is a site's JetStream without a hub: the test publishes the messages of the hub.
type leaf struct {
	t  *testing.T
	nc *nats.Conn
	js jetstream.JetStream
	// dialKubelet is that of the node API.
	dialKubelet func(context.Context) (net.Conn, error)
	// link is that of the node API, nil for one that is always up.
	link Link
	// listenPods is that of the node API.
	listenPods netip.AddrPort
}

func newLeaf(t *testing.T) *leaf {
	t.Helper()
	return newLeafIn(t, t.TempDir())
}

// newLeafIn is newLeaf with its store in a folder.
func newLeafIn(t *testing.T, dir string) *leaf {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, SyncAlways: true, NoLog: true, NoSigs: true, MaxPayload: 64 << 10,
	})
	must(t, err)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(wait) {
		t.Fatal("nats-server is not ready")
	}
	nc, err := nats.Connect(s.ClientURL())
	must(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	must(t, err)
	must(t, streams.Ensure(t.Context(), js, streams.LeafStreams(site, streams.LeafLimits{})))
	return &leaf{t: t, nc: nc, js: js}
}

// send publishes a desired message for a typed object, nil for a tombstone.
func (l *leaf) send(ref streams.Ref, op streams.Op, uid, version string, obj runtime.Object) uint64 {
	l.t.Helper()
	return l.sendIn("e1", ref, op, uid, version, obj)
}

// sendIn is send in an epoch.
func (l *leaf) sendIn(epoch string, ref streams.Ref, op streams.Op, uid, version string, obj runtime.Object) uint64 {
	l.t.Helper()
	m := streams.Message{Ref: ref, Op: op, UID: uid, Version: version, Epoch: epoch}
	if obj != nil {
		b, err := json.Marshal(obj)
		must(l.t, err)
		m.Object = b
	}
	seq, err := streams.Put(l.t.Context(), l.js, streams.DesiredSubject(site, ref), m)
	must(l.t, err)
	return seq
}

func (l *leaf) pod(p *corev1.Pod) uint64 {
	return l.send(podRef(p.Namespace, p.Name), streams.OpPut, string(p.UID), p.ResourceVersion, p)
}

func (l *leaf) configMap(c *corev1.ConfigMap) uint64 {
	return l.send(streams.Ref{Resource: "configmaps", Namespace: c.Namespace, Name: c.Name}, streams.OpPut, string(c.UID), c.ResourceVersion, c)
}

func podRef(ns, name string) streams.Ref {
	return streams.Ref{Node: node, Resource: "pods", Namespace: ns, Name: name}
}

// reported returns the last local message on a subject, nil if there is none.
func (l *leaf) reported(ref streams.Ref) (*streams.Message, uint64) {
	l.t.Helper()
	s, err := l.js.Stream(l.t.Context(), streams.SiteReported)
	must(l.t, err)
	raw, err := s.GetLastMsgForSubject(l.t.Context(), streams.LocalReportedSubject(ref))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, 0
	}
	must(l.t, err)
	_, m, err := streams.Load(l.t.Context(), s, raw.Subject, raw.Header, raw.Data)
	must(l.t, err)
	return &m, raw.Sequence
}

// running is a started node API.
type running struct {
	*API
	leaf *leaf
	dir  string
	stop func()
}

// start runs a node API on the leaf until the test ends or stop is called. dir is its data
// directory.
func (l *leaf) start(dir string) *running {
	l.t.Helper()
	a := New(Config{
		Site: site, Node: node, JS: l.js, DataDir: dir, Listen: "127.0.0.1:0", Log: zaptest.NewLogger(l.t), DialKubelet: l.dialKubelet, Link: l.link,
		ListenPods: l.listenPods,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stopped := false
	r := &running{API: a, leaf: l, dir: dir}
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			l.t.Errorf("Run: %v", err)
		}
	}
	l.t.Cleanup(r.stop)
	select {
	case <-a.Ready():
	case err := <-done:
		stopped = true
		cancel()
		l.t.Fatalf("Run: %v", err)
	case <-time.After(wait):
		l.t.Fatal("node API is not ready")
	}
	return r
}

func (r *running) restConfig() *rest.Config {
	r.leaf.t.Helper()
	path := filepath.Join(r.leaf.t.TempDir(), "kubeconfig")
	must(r.leaf.t, r.WriteKubeconfig(path, "kubelet"))
	info, err := os.Stat(path)
	must(r.leaf.t, err)
	if info.Mode().Perm() != 0o600 {
		r.leaf.t.Errorf("kubeconfig has mode %v", info.Mode().Perm())
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", path)
	must(r.leaf.t, err)
	cfg.QPS, cfg.Burst = 1000, 1000
	return cfg
}

func (r *running) json() kubernetes.Interface {
	c, err := kubernetes.NewForConfig(r.restConfig())
	must(r.leaf.t, err)
	return c
}

func (r *running) proto() kubernetes.Interface {
	cfg := r.restConfig()
	cfg.ContentType, cfg.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+",application/json"
	c, err := kubernetes.NewForConfig(cfg)
	must(r.leaf.t, err)
	return c
}

// applied waits until a sequence of SITE_DESIRED has been applied.
func (r *running) applied(seq uint64) {
	r.leaf.t.Helper()
	eventually(r.leaf.t, "sequence applied", func() bool { return r.Applied() >= seq })
}

func newPod(name, uid, version string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name, UID: types.UID(uid), ResourceVersion: version,
			Labels: map[string]string{"app": name}, CreationTimestamp: metav1.Unix(1_700_000_000, 0),
		},
		Spec:   corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "main", Image: "busybox"}}},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func newConfigMap(name, uid, version, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(uid), ResourceVersion: version},
		Data:       map[string]string{"key": value},
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually polls for a condition. Its limit is shorter than the AckWait of consumers: a
// message that is only delivered again after that is a failure.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	polltest.Within(t, wait, what, condition)
}
