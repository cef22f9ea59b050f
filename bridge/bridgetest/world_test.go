package bridgetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/bridge"
	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/streams"
)

// world is one test's hub, sites and namespace at the API server that all tests share.
type world struct {
	t   *testing.T
	ctx context.Context
	*api
	hub       *natstest.Hub
	nc        *nats.Conn
	js        jetstream.JetStream
	namespace string
	// lease is the bridges' LeaseDuration, metrics where the next bridge serves them,
	// empty for nowhere.
	lease   time.Duration
	metrics string
	// nodeDeletionDelay is the next bridge's NodeDeletionDelay.
	nodeDeletionDelay time.Duration
	// before are the bridges' goroutines that a failed test has left.
	before map[string]string
}

func newWorld(t *testing.T, a *api, sites ...string) *world {
	t.Helper()
	w := &world{t: t, ctx: context.Background(), api: a, hub: natstest.StartHub(t, sites...), lease: 5 * time.Second, nodeDeletionDelay: time.Minute, before: bridgeGoroutines()}
	w.nc = w.hub.Connect(t, "bridge")
	var err error
	if w.js, err = jetstream.NewWithDomain(w.nc, streams.HubDomain); err != nil {
		t.Fatal(err)
	}
	ns, err := a.admin.CoreV1().Namespaces().Create(w.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	w.must(err)
	w.namespace = ns.Name
	// What the controller manager does for a namespace; there is none here.
	_, err = a.admin.CoreV1().ServiceAccounts(w.namespace).Create(w.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	w.must(err)
	for _, s := range sites {
		w.createSite(s)
	}
	t.Cleanup(w.cleanUp)
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// cleanUp leaves the API server without sites, nodes and their leases, and what is bound to nodes,
// for the next test: there is no garbage collector here, and its nodes have the same names.
func (w *world) cleanUp() {
	if w.disposable {
		return
	}
	now := metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
	for _, r := range []schema.GroupVersionResource{corev1.SchemeGroupVersion.WithResource("pods"), devicesGVR, modelsGVR, statusesGVR} {
		all, err := w.dynamic.Resource(r).List(w.ctx, metav1.ListOptions{})
		w.must(err)
		for _, o := range all.Items {
			if err := w.dynamic.Resource(r).Namespace(o.GetNamespace()).Delete(w.ctx, o.GetName(), now); !apierrors.IsNotFound(err) {
				w.must(err)
			}
		}
	}
	w.must(w.admin.CoreV1().Nodes().DeleteCollection(w.ctx, now, metav1.ListOptions{}))
	w.must(w.admin.CoordinationV1().Leases(corev1.NamespaceNodeLease).DeleteCollection(w.ctx, now, metav1.ListOptions{}))
	w.must(w.dynamic.Resource(sitesGVR).DeleteCollection(w.ctx, now, metav1.ListOptions{}))
}

var sitesGVR = v1alpha1.GroupVersion.WithResource("sites")

// createSite creates a Site that can register the nodes of the tests: a1 and a2 of plant-a, b1
// of plant-b, node-0 and more of a fleet.
func (w *world) createSite(name string) {
	w.t.Helper()
	prefix := "node-"
	if name == "plant-a" || name == "plant-b" {
		prefix = name[len(name)-1:]
	}
	w.must(w.createSiteWith(name, map[string]any{"pattern": prefix + "*", "max": int64(1000)}))
}

// createSiteWith creates a Site with spec.nodes, nil for none.
func (w *world) createSiteWith(name string, nodes map[string]any) error {
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "petiole.dev/v1alpha1", "kind": "Site", "metadata": map[string]any{"name": name}}}
	if nodes != nil {
		o.Object["spec"] = map[string]any{"nodes": nodes}
	}
	_, err := w.dynamic.Resource(sitesGVR).Create(w.ctx, o, metav1.CreateOptions{})
	return err
}

func (w *world) siteStatus(name string) v1alpha1.SiteStatus {
	w.t.Helper()
	o, err := w.dynamic.Resource(sitesGVR).Get(w.ctx, name, metav1.GetOptions{})
	w.must(err)
	var s v1alpha1.Site
	w.must(runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &s))
	return s.Status
}

// running is a bridge that runs.
type running struct {
	*bridge.Bridge
	stop func()
}

// start runs a bridge until stop, or until the test ends. Nothing of it may be left
// then.
func (w *world) start(identity string) *running {
	w.t.Helper()
	return w.startWith(identity, w.hubAddr(), w.kubeconfig, bridge.ImpersonationConstrained)
}

func (w *world) hubAddr() string { return strings.TrimPrefix(w.hub.Server.ClientURL(), "nats://") }

func (w *world) config(identity, hubAddr, kubeconfig, impersonation string) bridge.Config {
	cfg := bridge.DefaultConfig()
	cfg.Kubernetes.Kubeconfig, cfg.Kubernetes.Impersonation = kubeconfig, impersonation
	cfg.NATS.URLs, cfg.NATS.CredentialsFile = []string{"nats://" + hubAddr}, w.hub.BridgeCreds()
	// Fleets are larger than a small hub has room for.
	cfg.Limits.MaxSites, cfg.Limits.HubBytes = 1000, 1000*streams.MinSiteBytes
	cfg.LeaderElection.Identity = identity
	cfg.LeaderElection.LeaseDuration.Duration = w.lease
	cfg.Sites.NodeDeletionDelay.Duration = w.nodeDeletionDelay
	cfg.Metrics.Listen = w.metrics
	return cfg
}

func (w *world) startWith(identity, hubAddr, kubeconfig, impersonation string) *running {
	w.t.Helper()
	return w.startConfig(w.config(identity, hubAddr, kubeconfig, impersonation))
}

func (w *world) startConfig(cfg bridge.Config) *running {
	w.t.Helper()
	w.must(cfg.Validate())
	b := bridge.New(cfg, zaptest.NewLogger(w.t, zaptest.Level(zap.InfoLevel)).Named(cfg.LeaderElection.Identity))
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				w.t.Errorf("Run = %v", err)
			}
		case <-time.After(patience):
			w.t.Fatalf("the bridge has not stopped:\n%s", w.left())
		}
	}
	w.t.Cleanup(func() {
		stop()
		if left := w.left(); left != "" {
			w.t.Errorf("the bridge left goroutines:\n%s", left)
		}
	})
	return &running{b, stop}
}

// rounds waits until n whole rounds of what count counts have been made.
func (b *running) rounds(t *testing.T, what string, n uint64, count func(bridge.Counters) uint64) {
	t.Helper()
	end := count(b.Counters()) + 1 + n // one may be under way
	eventually(t, fmt.Sprintf("%d rounds of %s", n, what), func() bool { return count(b.Counters()) >= end })
}

// left returns the stacks of this test's goroutines that run the bridge's code.
func (w *world) left() string {
	now := bridgeGoroutines()
	maps.DeleteFunc(now, func(name, _ string) bool { _, ok := w.before[name]; return ok })
	return strings.Join(slices.Collect(maps.Values(now)), "\n\n")
}

// bridgeGoroutines returns the stacks that run the bridge's code, by the goroutine's name.
func bridgeGoroutines() map[string]string {
	var all bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&all, 2); err != nil {
		return map[string]string{"": err.Error()}
	}
	out := map[string]string{}
	for _, g := range strings.Split(all.String(), "\n\n") {
		if strings.Contains(g, "petiole/bridge.") {
			name, _, _ := strings.Cut(g, " [")
			out[name] = g
		}
	}
	return out
}

// desired is what DESIRED holds about an object; nil when nothing.
func (w *world) desired(site string, r streams.Ref) (*streams.Message, uint64) {
	w.t.Helper()
	s, err := w.js.Stream(w.ctx, streams.Desired)
	if err != nil {
		return nil, 0
	}
	raw, err := s.GetLastMsgForSubject(w.ctx, streams.DesiredSubject(site, r))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, 0
	}
	w.must(err)
	_, m, err := streams.Load(w.ctx, s, raw.Subject, raw.Header, raw.Data)
	if errors.Is(err, streams.ErrSuperseded) || errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, 0 // changed while it was read
	}
	w.must(err)
	return &m, raw.Sequence
}

func (w *world) awaitDesired(site string, r streams.Ref, what string, cond func(*streams.Message) bool) uint64 {
	w.t.Helper()
	var seq uint64
	eventually(w.t, fmt.Sprintf("%s at %s %s", r, site, what), func() bool {
		var m *streams.Message
		m, seq = w.desired(site, r)
		return m != nil && cond(m)
	})
	return seq
}

func isPut(m *streams.Message) bool { return m.Op == streams.OpPut }

func contains(s string) func(*streams.Message) bool {
	return func(m *streams.Message) bool { return isPut(m) && bytes.Contains(m.Object, []byte(s)) }
}

func tombstoneOf(uid any) func(*streams.Message) bool {
	return func(m *streams.Message) bool { return m.Op == streams.OpDelete && m.UID == fmt.Sprint(uid) }
}

// lastSeq is the last sequence of DESIRED.
func (w *world) lastSeq() uint64 {
	w.t.Helper()
	s, err := w.js.Stream(w.ctx, streams.Desired)
	w.must(err)
	return s.CachedInfo().State.LastSeq
}

// quarantined are the reasons of the messages set aside whose subject contains s.
func (w *world) quarantined(s string) []string {
	w.t.Helper()
	stream, err := w.js.Stream(w.ctx, streams.Quarantine)
	w.must(err)
	var reasons []string
	for seq := uint64(1); seq <= stream.CachedInfo().State.LastSeq; seq++ {
		m, err := stream.GetMsg(w.ctx, seq)
		w.must(err)
		if strings.Contains(m.Subject, s) {
			reasons = append(reasons, m.Header.Get("Petiole-Reason"))
		}
	}
	return reasons
}

// pod makes a pod that is bound to the node and mounts the ConfigMap.
func (w *world) pod(name, node, configMap string) *corev1.Pod {
	w.t.Helper()
	p, err := w.admin.CoreV1().Pods(w.namespace).Create(w.ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			NodeName:   node,
			Containers: []corev1.Container{{Name: "c", Image: "busybox"}},
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
				ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: configMap}},
			}}},
		},
	}, metav1.CreateOptions{})
	w.must(err)
	return p
}

func (w *world) podRef(name, node string) streams.Ref {
	return streams.Ref{Node: node, Resource: "pods", Namespace: w.namespace, Name: name}
}

func (w *world) getPod(name string) *corev1.Pod {
	w.t.Helper()
	p, err := w.admin.CoreV1().Pods(w.namespace).Get(w.ctx, name, metav1.GetOptions{})
	w.must(err)
	return p
}

// settled waits until a new pod's tolerations have been set and published, after which
// nothing more happens to it by itself.
func (w *world) settled(site, pod, node string) {
	w.t.Helper()
	eventually(w.t, "tolerations of "+pod, func() bool {
		m, _ := w.desired(site, w.podRef(pod, node))
		if m == nil || !isPut(m) {
			return false
		}
		var p corev1.Pod
		w.must(json.Unmarshal(m.Object, &p))
		n := 0
		for _, t := range p.Spec.Tolerations {
			if t.Effect == corev1.TaintEffectNoExecute && t.TolerationSeconds == nil {
				n++
			}
		}
		return n == 1
	})
}

func (w *world) configMap(name, value string) *corev1.ConfigMap {
	w.t.Helper()
	cm, err := w.admin.CoreV1().ConfigMaps(w.namespace).Create(w.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"v": value}}, metav1.CreateOptions{})
	w.must(err)
	return cm
}

func (w *world) setConfigMap(name, value string) {
	w.t.Helper()
	cm, err := w.admin.CoreV1().ConfigMaps(w.namespace).Get(w.ctx, name, metav1.GetOptions{})
	w.must(err)
	cm.Data = map[string]string{"v": value}
	_, err = w.admin.CoreV1().ConfigMaps(w.namespace).Update(w.ctx, cm, metav1.UpdateOptions{})
	w.must(err)
}

func (w *world) configMapRef(name string) streams.Ref {
	return streams.Ref{Resource: "configmaps", Namespace: w.namespace, Name: name}
}

// reported returns the report of a pod as a leaf sends it: what identifies it, and its status.
func reported(p *corev1.Pod, phase corev1.PodPhase, ready corev1.ConditionStatus) *corev1.Pod {
	p = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID}, Status: *p.Status.DeepCopy()}
	p.Status.Phase = phase
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
	p.Status.PodIP = "10.88.0.2"
	p.Status.PodIPs = []corev1.PodIP{{IP: "10.88.0.2"}}
	return p
}

func podCondition(p *corev1.Pod, t corev1.PodConditionType) corev1.ConditionStatus {
	for _, c := range p.Status.Conditions {
		if c.Type == t {
			return c.Status
		}
	}
	return ""
}
