package nodeapi

import (
	"bytes"
	"context"
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
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/petiole-io/petiole/streams"
)

// encodings runs a test with a JSON and with a protobuf client.
func encodings(t *testing.T, r *running, f func(*testing.T, kubernetes.Interface)) {
	t.Run("json", func(t *testing.T) { f(t, r.json()) })
	t.Run("protobuf", func(t *testing.T) { f(t, r.proto()) })
}

func TestReadsWhatTheCloudWants(t *testing.T) {
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

// events collects a watch.
type events struct {
	mu  sync.Mutex
	all []watch.Event
}

func collect(t *testing.T, w watch.Interface) *events {
	e := &events{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ev := range w.ResultChan() {
			e.mu.Lock()
			e.all = append(e.all, ev)
			e.mu.Unlock()
		}
	}()
	t.Cleanup(func() { w.Stop(); <-done })
	return e
}

// kinds lists what came as TYPE/name/uid.
func (e *events) kinds() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []string
	for _, ev := range e.all {
		if acc, ok := ev.Object.(metav1.ObjectMetaAccessor); ok && ev.Type != watch.Bookmark {
			m := acc.GetObjectMeta()
			out = append(out, fmt.Sprintf("%s/%s/%s", ev.Type, m.GetName(), m.GetUID()))
			continue
		}
		out = append(out, string(ev.Type))
	}
	return strings.Join(out, " ")
}

func TestStreamingListEndsWithBookmark(t *testing.T) {
	l := newLeaf(t)
	l.pod(newPod("a", "u1", "10"))
	l.pod(newPod("b", "u2", "11"))
	r := l.start(t.TempDir())
	encodings(t, r, func(t *testing.T, c kubernetes.Interface) {
		yes := true
		w, err := c.CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{
			SendInitialEvents: &yes, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
			AllowWatchBookmarks: true, FieldSelector: "spec.nodeName=" + node,
		})
		must(t, err)
		got := collect(t, w)
		eventually(t, "initial events and bookmark", func() bool { return got.kinds() == "ADDED/a/u1 ADDED/b/u2 BOOKMARK" })
		got.mu.Lock()
		m := got.all[2].Object.(*corev1.Pod)
		got.mu.Unlock()
		if m.Annotations[metav1.InitialEventsAnnotationKey] != "true" || m.ResourceVersion == "" {
			t.Errorf("bookmark = %+v", m.ObjectMeta)
		}
	})
}

func TestInformersFollow(t *testing.T) {
	l := newLeaf(t)
	l.configMap(newConfigMap("before", "u1", "10", "x"))
	r := l.start(t.TempDir())
	encodings(t, r, func(t *testing.T, c kubernetes.Interface) {
		stop, cancel := context.WithCancel(t.Context())
		f := informers.NewSharedInformerFactory(c, 0)
		inf := f.Core().V1().ConfigMaps().Informer()
		f.Start(stop.Done())
		defer f.Shutdown()
		defer cancel()
		if !cache.WaitForCacheSync(stop.Done(), inf.HasSynced) {
			t.Fatal("no sync")
		}
		name := "after-" + strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
		value := func(want string) func() bool {
			return func() bool {
				o, ok, _ := inf.GetStore().GetByKey("default/" + name)
				return ok == (want != "") && (!ok || o.(*corev1.ConfigMap).Data["key"] == want)
			}
		}
		l.configMap(newConfigMap(name, "n", "20", "one"))
		eventually(t, "added", value("one"))
		l.configMap(newConfigMap(name, "n", "21", "two"))
		eventually(t, "modified", value("two"))
		l.send(streams.Ref{Resource: "configmaps", Namespace: "default", Name: name}, streams.OpDelete, "n", "22", nil)
		eventually(t, "deleted", value(""))
		if _, ok, _ := inf.GetStore().GetByKey("default/before"); !ok {
			t.Error("the object from before is missing")
		}
	})
}

func TestWatchFromUnknownVersionIsExpired(t *testing.T) {
	l := newLeaf(t)
	l.pod(newPod("a", "u1", "10"))
	dir := t.TempDir()
	r := l.start(dir)
	pods, err := r.json().CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	must(t, err)
	old := pods.ResourceVersion
	r.stop()
	r = l.start(dir)
	for _, rv := range []string{old, "1", "99999999999999999"} {
		_, err := r.proto().CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{ResourceVersion: rv})
		if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
			t.Errorf("watch from %s: %v, want expired", rv, err)
		}
	}
	again, err := r.json().CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	must(t, err)
	if again.ResourceVersion <= old {
		t.Errorf("version %s after a restart, %s before", again.ResourceVersion, old)
	}
}

func TestWatchResumesWithinHistory(t *testing.T) {
	l := newLeaf(t)
	r := l.start(t.TempDir())
	c := r.json()
	list, err := c.CoreV1().ConfigMaps("").List(t.Context(), metav1.ListOptions{})
	must(t, err)
	l.configMap(newConfigMap("a", "u1", "10", "1"))
	r.applied(l.configMap(newConfigMap("a", "u1", "11", "2")))
	w, err := c.CoreV1().ConfigMaps("").Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	must(t, err)
	got := collect(t, w)
	eventually(t, "both events", func() bool { return got.kinds() == "ADDED/a/u1 MODIFIED/a/u1" })
	for i := range historyEvents + 1 {
		l.configMap(newConfigMap(fmt.Sprint("n", i), fmt.Sprint("n", i), fmt.Sprint(100+i), ""))
	}
	r.applied(l.configMap(newConfigMap("b", "u2", "1000", "")))
	if _, err := c.CoreV1().ConfigMaps("").Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion}); !apierrors.IsResourceExpired(err) {
		t.Errorf("watch from before the history: %v, want expired", err)
	}
}

func TestWatchEndsWithItsTimeAndABookmark(t *testing.T) {
	l := newLeaf(t)
	r := l.start(t.TempDir())
	one := int64(1)
	w, err := r.proto().CoreV1().Nodes().Watch(t.Context(), metav1.ListOptions{TimeoutSeconds: &one, AllowWatchBookmarks: true})
	must(t, err)
	defer w.Stop()
	var last watch.EventType
	end := time.After(wait)
	for {
		select {
		case ev, ok := <-w.ResultChan():
			if !ok {
				if last != watch.Bookmark {
					t.Errorf("last event is %q, want a bookmark", last)
				}
				return
			}
			last = ev.Type
		case <-end:
			t.Fatal("the watch did not end")
		}
	}
}

func TestLaggingWatcherIsEnded(t *testing.T) {
	s := newStore(1)
	r := s.resource(configMapsGR)
	sel, err := selectionOf(&request{resource: r}, metav1.ListOptions{})
	must(t, err)
	w, _, _ := s.watchAll(r, sel)
	for i := range queueEvents + 2 {
		b, _ := json.Marshal(newConfigMap("a", "u1", fmt.Sprint(i+1), fmt.Sprint(i)))
		if _, err := s.apply(streams.Message{
			Ref: streams.Ref{Resource: "configmaps", Namespace: "default", Name: "a"},
			Op:  streams.OpPut, UID: "u1", Version: fmt.Sprint(i + 1), Object: b,
		}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.take(w); err != errExpired {
		t.Errorf("take: %v, want errExpired", err)
	}
	if n := len(s.table(r).history.events); n > historyEvents {
		t.Errorf("history holds %d events", n)
	}
}

func TestSelectorTransitions(t *testing.T) {
	l := newLeaf(t)
	r := l.start(t.TempDir())
	w, err := r.json().CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{LabelSelector: "color=red"})
	must(t, err)
	got := collect(t, w)
	color := func(c string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Labels = map[string]string{"color": c} }
	}
	l.pod(newPod("a", "u1", "10", color("blue")))
	l.pod(newPod("a", "u1", "11", color("red")))
	l.pod(newPod("a", "u1", "12", color("red"), func(p *corev1.Pod) { p.Spec.Priority = new(int32) }))
	l.pod(newPod("a", "u1", "13", color("blue")))
	eventually(t, "transitions", func() bool { return got.kinds() == "ADDED/a/u1 MODIFIED/a/u1 DELETED/a/u1" })
}

func TestCustomResourcesAreServedAsJSON(t *testing.T) {
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
	// The device moves to another node of the site: the put may overtake the tombstone.
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

func TestLargeObjectArrivesInParts(t *testing.T) {
	l := newLeaf(t)
	dir := t.TempDir()
	r := l.start(dir)
	big := strings.Repeat("x", 300<<10)
	r.applied(l.configMap(newConfigMap("big", "u1", "10", big)))
	check := func() {
		t.Helper()
		cm, err := r.proto().CoreV1().ConfigMaps("default").Get(t.Context(), "big", metav1.GetOptions{})
		must(t, err)
		if cm.Data["key"] != big {
			t.Errorf("%d bytes, want %d", len(cm.Data["key"]), len(big))
		}
	}
	check()
	r.stop()
	r = l.start(dir)
	check()
	// Upward the same way.
	ev := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: "default", Name: "big"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "a"}, Message: big,
	}
	_, err := r.proto().CoreV1().Events("default").Create(t.Context(), ev, metav1.CreateOptions{})
	must(t, err)
	m, _ := l.reported(streams.Ref{Node: node, Resource: "events", Namespace: "default", Name: "big"})
	if m == nil || len(m.Object) < len(big) {
		t.Error("the large event was not stored in full")
	}
}

func TestPoisonMessageIsSetAside(t *testing.T) {
	l := newLeaf(t)
	_, err := l.js.Publish(t.Context(), "desired.plant-a._._.configmaps.default.broken", []byte("{"))
	must(t, err)
	wrong := newConfigMap("wrong", "u9", "9", "")
	wrong.Kind = "Secret"
	l.send(streams.Ref{Resource: "configmaps", Namespace: "default", Name: "wrong"}, streams.OpPut, "u9", "9", wrong)
	dir := t.TempDir()
	r := l.start(dir)
	seq := l.configMap(newConfigMap("good", "u1", "10", "x"))
	r.applied(seq)
	if _, err := r.json().CoreV1().ConfigMaps("default").Get(t.Context(), "good", metav1.GetOptions{}); err != nil {
		t.Errorf("after the poison: %v", err)
	}
	q, err := l.js.Stream(t.Context(), streams.SiteQuarantine)
	must(t, err)
	eventually(t, "two messages in quarantine", func() bool {
		info, err := q.Info(t.Context())
		return err == nil && info.State.Msgs == 2
	})
	c, err := l.js.Consumer(t.Context(), streams.SiteDesired, streams.ApplyConsumer)
	must(t, err)
	eventually(t, "everything acknowledged", func() bool {
		info, err := c.Info(t.Context())
		return err == nil && info.AckFloor.Stream == seq && info.NumAckPending == 0
	})
	if n := r.Quarantined(); n != 2 {
		t.Errorf("Quarantined = %d, want 2", n)
	}
	r.stop()
	r = l.start(dir)
	if n := r.Quarantined(); n != 2 {
		t.Errorf("Quarantined after a restart = %d, want 2", n)
	}
	if info, err := q.Info(t.Context()); err != nil || info.State.Msgs != 2 {
		t.Errorf("quarantine after a restart: %+v, %v", info, err)
	}
}

func TestEncodingsAreShared(t *testing.T) {
	r := newCatalog()[configMapsGR]
	b, err := json.Marshal(newConfigMap("a", "u1", "1", "x"))
	must(t, err)
	d, err := parseDocument(b)
	must(t, err)
	o, err := newObject(r, key{"default", "a"}, d, 7)
	must(t, err)
	one, err := o.protobuf()
	must(t, err)
	two, err := o.protobuf()
	must(t, err)
	if &one[0] != &two[0] || !bytes.HasPrefix(one, []byte("k8s\x00")) {
		t.Error("the encoding is not shared")
	}
}
