package nodeapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/petiole-io/petiole/leaf/nodeapi/catalog"
	"github.com/petiole-io/petiole/leaf/nodeapi/codec"
	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
	"github.com/petiole-io/petiole/streams"
)

// encodings runs a test with a JSON and with a protobuf client.
func encodings(t *testing.T, r *running, f func(*testing.T, kubernetes.Interface)) {
	t.Run("json", func(t *testing.T) { f(t, r.json()) })
	t.Run("protobuf", func(t *testing.T) { f(t, r.proto()) })
}

func TestServesDesiredState(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	l.pod(newPod("a", "u1", "10"))
	l.pod(newPod("elsewhere", "u2", "11", func(p *corev1.Pod) { p.Spec.NodeName = "plant-a-2" }))
	l.configMap(newConfigMap("kube-root-ca.crt", "u3", "12", "x"))
	for i, ip := range []string{"None", "10.0.0.1"} {
		s := &corev1.Service{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("s", i), UID: "s"}, Spec: corev1.ServiceSpec{ClusterIP: ip},
		}
		l.send(streams.Ref{Resource: "services", Namespace: "default", Name: s.Name}, streams.OpPut, "s", "13", s)
	}
	r := l.start(t.TempDir())
	encodings(t, r, func(t *testing.T, c kubernetes.Interface) {
		ctx := t.Context()
		cm, err := c.CoreV1().ConfigMaps("default").Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		must(t, err)
		if cm.Data["key"] != "x" || cm.UID != "u3" || cm.ResourceVersion == "12" || cm.ResourceVersion == "" {
			t.Errorf("configmap = %+v", cm)
		}
		for selector, want := range map[string]int{"spec.nodeName=" + node: 1, "metadata.name=elsewhere": 1, "": 2, "spec.nodeName!=" + node: 1} {
			pods, err := c.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: selector})
			must(t, err)
			if len(pods.Items) != want || pods.ResourceVersion == "" {
				t.Errorf("pods with %q: %d, version %q, want %d", selector, len(pods.Items), pods.ResourceVersion, want)
			}
		}
		pods, err := c.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app in (a)"})
		must(t, err)
		if len(pods.Items) != 1 {
			t.Errorf("pods by label: %d, want 1", len(pods.Items))
		}
		svcs, err := c.CoreV1().Services("").List(ctx, metav1.ListOptions{FieldSelector: "spec.clusterIP!=None"})
		must(t, err)
		if len(svcs.Items) != 1 || svcs.Items[0].Name != "s1" {
			t.Errorf("services = %+v", svcs.Items)
		}
		if _, err := c.CoreV1().Pods("default").List(ctx, metav1.ListOptions{FieldSelector: "spec.color=red"}); !apierrors.IsBadRequest(err) {
			t.Errorf("unknown field: %v", err)
		}
		if _, err := c.CoreV1().Secrets("default").Get(ctx, "none", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("missing secret: %v", err)
		}
		if _, err := c.AppsV1().Deployments("default").List(ctx, metav1.ListOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("unserved resource: %v", err)
		}
	})
}

func TestCustomResourcesAreServedAsJSON(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	r := l.start(t.TempDir())
	gvr := schema.GroupVersionResource{Group: "devices.kubeedge.io", Version: "v1beta1", Resource: "devices"}
	dyn, err := dynamic.NewForConfig(r.restConfig())
	must(t, err)
	if _, err := dyn.Resource(gvr).Namespace("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("before the first device: %v", err)
	}
	dev := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
		"metadata": map[string]any{"name": "pump.1", "namespace": "default", "uid": "d1"},
		"spec":     map[string]any{"nodeName": node, "deviceModelRef": map[string]any{"name": "m"}},
	}}
	ref := streams.Ref{Node: node, Group: gvr.Group, Resource: gvr.Resource, Namespace: "default", Name: "pump.1"}
	r.applied(l.send(ref, streams.OpPut, "d1", "10", dev))
	got, err := dyn.Resource(gvr).Namespace("default").Get(t.Context(), "pump.1", metav1.GetOptions{})
	must(t, err)
	if got.GetUID() != "d1" {
		t.Errorf("device = %v", got)
	}
	// The device moves to another node of the site: the put may arrive before the tombstone.
	moved := ref
	moved.Node = "plant-a-2"
	l.send(moved, streams.OpPut, "d1", "11", dev)
	r.applied(l.send(ref, streams.OpDelete, "d1", "11", nil))
	if _, err := dyn.Resource(gvr).Namespace("default").Get(t.Context(), "pump.1", metav1.GetOptions{}); err != nil {
		t.Errorf("after the move: %v", err)
	}
	lists, err := r.json().Discovery().ServerPreferredResources()
	must(t, err)
	var names []string
	for _, list := range lists {
		for _, res := range list.APIResources {
			names = append(names, list.GroupVersion+"/"+res.Name)
		}
	}
	for _, want := range []string{"devices.kubeedge.io/v1beta1/devices", "v1/pods", "coordination.k8s.io/v1/leases"} {
		if !strings.Contains(strings.Join(names, " "), want) {
			t.Errorf("discovery lacks %s: %v", want, names)
		}
	}
}

func TestEncodingsAreShared(t *testing.T) {
	s := objects.New(6, catalog.Builtins(), objects.PodAccess{})
	b, err := json.Marshal(newConfigMap("a", "u1", "1", "x"))
	must(t, err)
	must(t, s.Apply(streams.Message{
		Ref: streams.Ref{Resource: "configmaps", Namespace: "default", Name: "a"}, Op: streams.OpPut, UID: "u1", Version: "1", Object: b,
	}))
	o := s.Get(objects.ConfigMaps, objects.Key{Namespace: "default", Name: "a"})
	one, err := codec.Encoded(codec.Protobuf, o)
	must(t, err)
	two, err := codec.Encoded(codec.Protobuf, o)
	must(t, err)
	if &one[0] != &two[0] || !bytes.HasPrefix(one, []byte("k8s\x00")) {
		t.Error("the encoding is not shared")
	}
}

// stubLink is a link whose state the test sets.
type stubLink struct {
	mu      sync.Mutex
	up      bool
	since   time.Time
	changed chan struct{}
}

func (l *stubLink) State() (bool, time.Time, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.up, l.since, l.changed
}

func (l *stubLink) set(up bool, since time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.up, l.since = up, since
	close(l.changed)
	l.changed = make(chan struct{})
}

// Without a link a kubelet is told to use the images that are on disk, also right after a start.
func TestPullPolicyFollowsTheLink(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	link := &stubLink{since: time.Now(), changed: make(chan struct{})}
	l.link = link
	l.pod(newPod("a", "u1", "10", func(p *corev1.Pod) { p.Spec.Containers[0].ImagePullPolicy = corev1.PullAlways }))
	c := l.start(t.TempDir()).proto()
	policy := func() corev1.PullPolicy {
		p, err := c.CoreV1().Pods("default").Get(t.Context(), "a", metav1.GetOptions{})
		must(t, err)
		return p.Spec.Containers[0].ImagePullPolicy
	}
	if got := policy(); got != corev1.PullIfNotPresent {
		t.Errorf("%s at a start without a link", got)
	}
	link.set(true, time.Now())
	eventually(t, "Always with a link", func() bool { return policy() == corev1.PullAlways })
	link.set(false, time.Now().Add(-time.Minute))
	eventually(t, "IfNotPresent without a link", func() bool { return policy() == corev1.PullIfNotPresent })
}
