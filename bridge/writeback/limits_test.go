package writeback

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/bounds"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/liveness"
	"github.com/petiole-io/petiole/streams"
)

// objects is a cache with these objects.
type objects map[kube.Key]*unstructured.Unstructured

func (o objects) Get(k kube.Key) *unstructured.Unstructured { return o[k] }

func boundTo(node string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"nodeName": node}}}
}

// A node has a bounded number of mirror pods, of which the informer may have seen some.
func TestMirrorPodsAreBounded(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	m := newMirrorPods()
	pod := func(n int) kube.Key { return kube.CoreKey("pods", "default", fmt.Sprint("p", n)) }
	var seen []kube.Key
	for n := range bounds.MaxMirrorPods {
		if n%2 == 0 {
			seen = append(seen, pod(n))
		}
		if !m.admit("b1", pod(n), seen, now) {
			t.Fatalf("the mirror pod %d is refused", n)
		}
	}
	if m.admit("b1", pod(1000), seen, now) {
		t.Error("one more is admitted")
	}
	if !m.admit("b1", pod(3), seen, now) || !m.admit("b2", pod(1000), nil, now) {
		t.Error("one that is present, or the first of another node, is refused")
	}
	now = now.Add(mirrorPodsLag)
	if !m.admit("b1", pod(1000), seen, now) {
		t.Error("refused though the others have been deleted")
	}
	if len(m.admitted) != 1 {
		t.Errorf("%d nodes are remembered, want 1", len(m.admitted))
	}
}

// An object that is larger than one of its kind may be is refused before anything is asked of the
// API server, and the Site says so.
func TestObjectsAreBounded(t *testing.T) {
	t.Parallel()
	node := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "b1", "labels": map[string]any{v1alpha1.SiteLabel: "plant-b"}}}}
	pod, device := boundTo("b1"), boundTo("b1")
	pod.SetUID("u")
	cache := objects{
		kube.CoreKey("nodes", "", "b1"): node, kube.CoreKey("pods", "default", "p"): pod,
		{Group: kube.DeviceGroup, Resource: "devices", Namespace: "default", Name: "p"}: device,
	}
	alive := liveness.NewTracker()
	alive.Report("plant-b", "b1", time.Now(), time.Now())
	text := func(n int) string { return strings.Repeat("x", n) }
	for _, c := range []struct {
		name  string
		ref   streams.Ref
		op    streams.Op
		uid   string
		limit int
		o     func(n int) any
	}{
		{"status of a pod", streams.Ref{Resource: "pods", Namespace: "default", Name: "p"}, streams.OpPut, "u", bounds.MaxPodStatusBytes, func(n int) any {
			return corev1.Pod{Status: corev1.PodStatus{Message: text(n)}}
		}},
		{"mirror pod", streams.Ref{Resource: "pods", Namespace: "default", Name: "p"}, streams.OpCreate, "", bounds.MaxMirrorPodBytes, func(n int) any {
			p := corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Args: []string{text(n)}}}}}
			p.Name, p.Namespace = "p", "default"
			return p
		}},
		{"status of a node", streams.Ref{Resource: "nodes", Name: "b1"}, streams.OpPut, "", bounds.MaxNodeStatusBytes, func(n int) any {
			return corev1.Node{Status: corev1.NodeStatus{Images: []corev1.ContainerImage{{Names: []string{text(n)}}}}}
		}},
		{"CSINode", streams.Ref{Group: kube.StorageGroup, Resource: "csinodes", Name: "b1"}, streams.OpPut, "", bounds.MaxNodeStatusBytes, func(n int) any {
			return map[string]any{"metadata": map[string]any{"name": text(n)}}
		}},
		{"status of a device", streams.Ref{Group: kube.DeviceGroup, Resource: "devicestatuses", Namespace: "default", Name: "p"}, streams.OpPut, "", bounds.MaxDeviceStatusBytes, func(n int) any {
			return map[string]any{"status": text(n)}
		}},
		{"Event", streams.Ref{Resource: "events", Namespace: "default", Name: "p.1"}, streams.OpCreate, "", bounds.MaxEventBytes, func(n int) any {
			return corev1.Event{Message: text(n)}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			problems := bounds.NewProblems(time.Now)
			w := New(Config{Cache: cache, Sites: siteOf{"b1": "plant-b"}, Names: empty{}, Problems: problems, Liveness: alive})
			c.ref.Node = "b1"
			object, err := json.Marshal(c.o(c.limit + 1))
			if err != nil {
				t.Fatal(err)
			}
			err = w.Write(t.Context(), Report{Site: "plant-b", New: true, Message: streams.Message{Ref: c.ref, Op: c.op, UID: c.uid, Object: object}})
			if !errors.Is(err, kube.ErrRefused) || !strings.Contains(err.Error(), fmt.Sprint("the limit is ", c.limit)) {
				t.Errorf("%v, want it refused with the limit %d", err, c.limit)
			}
			reason, message, present := problems.Present("plant-b", v1alpha1.ConditionWithinLimits)
			if !present || reason != v1alpha1.ReasonTooLarge || !strings.Contains(message, c.ref.Name) {
				t.Errorf("the condition: %v %s: %s", present, reason, message)
			}
		})
	}
}

// An Event about a node, a pod or a device of somebody else is refused; one about a pod that no
// longer exists is not.
func TestEventsAreAboutTheSitesObjects(t *testing.T) {
	t.Parallel()
	w := eventWriter{Config{Sites: siteOf{"a1": "plant-a", "b1": "plant-b", "b2": "plant-b"}, Cache: objects{
		kube.CoreKey("pods", "default", "own"):                                               boundTo("b2"),
		kube.CoreKey("pods", "default", "theirs"):                                            boundTo("a1"),
		kube.CoreKey("pods", "default", "unbound"):                                           boundTo(""),
		{Group: kube.DeviceGroup, Resource: "devices", Namespace: "default", Name: "theirs"}: boundTo("a1"),
	}}}
	for _, c := range []struct {
		kind, name string
		refused    bool
	}{
		{"Node", "b1", false},
		{"Node", "b2", false},
		{"Node", "a1", true},
		{"Node", "control-plane", true},
		{"Pod", "own", false},
		{"Pod", "deleted", false},
		{"Pod", "theirs", true},
		{"Pod", "unbound", true},
		{"Device", "theirs", true},
		{"PersistentVolumeClaim", "data", false},
	} {
		err := w.checkObject(Report{Site: "plant-b", Message: streams.Message{Ref: streams.Ref{Node: "b1"}}}, corev1.ObjectReference{Kind: c.kind, Namespace: "default", Name: c.name})
		if errors.Is(err, kube.ErrRefused) != c.refused {
			t.Errorf("Event about %s %s: %v, want refused %v", c.kind, c.name, err, c.refused)
		}
	}
}

// A site reports the objects of its nodes; objects that the cloud or other nodes own are refused,
// before anything is asked of the API server.
func TestSitesReportTheirKindsOnly(t *testing.T) {
	t.Parallel()
	node := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "b1", "labels": map[string]any{v1alpha1.SiteLabel: "plant-b"}}}}
	w := New(Config{Cache: objects{kube.CoreKey("nodes", "", "b1"): node}, Sites: siteOf{"b1": "plant-b"}, Names: empty{}, Problems: bounds.NewProblems(time.Now)})
	tried := 0
	for _, kind := range []string{
		"volumeattachments.storage.k8s.io", "csidrivers.storage.k8s.io", "resourceclaims.resource.k8s.io", "resourceslices.resource.k8s.io",
		"networkpolicies.networking.k8s.io", "ingresses.networking.k8s.io", "endpointslices.discovery.k8s.io", "services", "endpoints",
		"persistentvolumes", "persistentvolumeclaims", "secrets", "configmaps", "serviceaccounts", "namespaces", "resourcequotas",
		"leases.coordination.k8s.io", "podcertificaterequests.certificates.k8s.io", "clustertrustbundles.certificates.k8s.io", "certificatesigningrequests.certificates.k8s.io",
		"clusterrolebindings.rbac.authorization.k8s.io", "deployments.apps", "sites.petiole.dev", "backlogs.petiole.dev", "devices." + kube.DeviceGroup, "pods.metrics.k8s.io",
	} {
		resource, group, _ := strings.Cut(kind, ".")
		for _, op := range []streams.Op{streams.OpCreate, streams.OpPut, streams.OpDelete} {
			ref := streams.Ref{Node: "b1", Group: group, Resource: resource, Namespace: "default", Name: "b1"}
			err := w.Write(t.Context(), Report{Site: "plant-b", New: true, Message: streams.Message{Ref: ref, Op: op, UID: "u", Object: []byte(`{"metadata":{"name":"b1","namespace":"default"}}`)}})
			if !errors.Is(err, kube.ErrRefused) {
				t.Errorf("%s of %s: %v, want it refused", op, kind, err)
			}
			tried++
		}
	}
	// Its own kinds are not those of another's node.
	for _, ref := range []streams.Ref{
		{Group: kube.StorageGroup, Resource: "csinodes", Name: "a1"}, {Resource: "nodes", Name: "a1"},
	} {
		for _, op := range []streams.Op{streams.OpPut, streams.OpDelete} {
			ref.Node = "b1"
			if err := w.Write(t.Context(), Report{Site: "plant-b", New: true, Message: streams.Message{Ref: ref, Op: op, Object: []byte(`{"metadata":{"name":"a1"}}`)}}); !errors.Is(err, kube.ErrRefused) {
				t.Errorf("%s of %s a1 as node b1: %v, want it refused", op, ref.Resource, err)
			}
			tried++
		}
	}
	t.Logf("MEASURED %d reports of other kinds, none got through", tried)
}
