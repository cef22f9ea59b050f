package objects

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/petiole-io/petiole/streams"
)

// newStore returns a store that has assigned the resource version 1.
func newStore() *Store {
	return New(1, []Resource{
		{GroupVersionResource: ConfigMaps.WithVersion("v1"), Kind: "ConfigMap", Namespaced: true},
		{GroupVersionResource: Pods.WithVersion("v1"), Kind: "Pod", Namespaced: true},
		{GroupVersionResource: Nodes.WithVersion("v1"), Kind: "Node"},
		{GroupVersionResource: CSINodes.WithVersion("v1"), Kind: "CSINode"},
		{GroupVersionResource: schema.GroupVersionResource{Group: "authentication.k8s.io", Version: "v1", Resource: "tokenreviews"}, Kind: "TokenReview", Virtual: true},
	}, PodAccess{})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// applyConfigMap applies a version of a ConfigMap.
func applyConfigMap(t *testing.T, s *Store, version int) {
	t.Helper()
	must(t, s.Apply(streams.Message{
		Ref: streams.Ref{Resource: "configmaps", Namespace: "default", Name: "a"}, Op: streams.OpPut, UID: "u1", Version: fmt.Sprint(version),
		Object: fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":"default","name":"a","uid":"u1"},"data":{"key":"%d"}}`, version),
	}))
}

// podMessage returns the desired message of a pod, or its tombstone.
func podMessage(op streams.Op, uid, version string) streams.Message {
	m := streams.Message{Ref: streams.Ref{Node: "n", Resource: "pods", Namespace: "default", Name: "a"}, Op: op, UID: uid, Version: version, Epoch: "e1"}
	if op != streams.OpDelete {
		m.Object = fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Pod","metadata":{"namespace":"default","name":"a","uid":%q}}`, uid)
	}
	return m
}

var podKey = Key{"default", "a"}

// TestReplacedObjectIsDeletedAndAdded replaces a pod by one of another UID under the same name:
// watchers see the end of the first, each change has its own resource version, and the observer
// is called once for each.
func TestReplacedObjectIsDeletedAndAdded(t *testing.T) {
	s := newStore()
	must(t, s.Apply(podMessage(streams.OpPut, "u1", "10")))
	var observed []string
	s.StartHistory(func(gr schema.GroupResource, kind watch.EventType, o *Object) {
		observed = append(observed, fmt.Sprint(gr.Resource, " ", kind, " ", o.UID, " ", o.ResourceVersion))
	})
	w, initial, rv := s.WatchAll(Pods, Selection{})
	defer w.Stop()
	if len(initial) != 1 || initial[0].ResourceVersion != 2 || rv != 2 {
		t.Fatalf("initial = %d objects at %d", len(initial), rv)
	}
	must(t, s.Apply(podMessage(streams.OpPut, "u2", "11")))
	select {
	case <-w.Ready():
	default:
		t.Error("the watcher is not ready")
	}
	events, rv, err := w.Drain()
	must(t, err)
	var seen []string
	for _, ev := range events {
		seen = append(seen, fmt.Sprint("pods ", ev.Kind, " ", ev.Object.UID, " ", ev.Object.ResourceVersion))
	}
	want := []string{"pods DELETED u1 3", "pods ADDED u2 4"}
	if !slices.Equal(seen, want) || !slices.Equal(observed, want) || rv != 4 {
		t.Errorf("watched %q up to %d, observed %q, want %q", seen, rv, observed, want)
	}
}

// TestRemoveLocalLeavesANewerMessage removes a local state that has been replaced meanwhile.
func TestRemoveLocalLeavesANewerMessage(t *testing.T) {
	s := newStore()
	must(t, s.Apply(podMessage(streams.OpPut, "u1", "10")))
	setLocal := func(seq uint64, status string) {
		t.Helper()
		_, err := s.SetLocal(Pods, podKey, &Local{Op: streams.OpPut, UID: "u1", Body: []byte(status), Seq: seq})
		must(t, err)
	}
	setLocal(4, `{"phase":"Pending"}`)
	setLocal(5, `{"phase":"Running"}`)
	must(t, s.RemoveLocal(Pods, podKey, 4))
	if got := s.Get(Pods, podKey).Get("status.phase"); got != "Running" {
		t.Errorf("after the removal of the older message the phase is %q", got)
	}
	must(t, s.RemoveLocal(Pods, podKey, 5))
	if st := s.State(Pods, podKey); st.Local != nil || st.Effective.Get("status.phase") != "" || !st.Live {
		t.Errorf("after the removal: %+v", st)
	}
}

// TestNothingIsLeftOfExpiredTombstones deletes a pod: after its tombstone has expired nothing
// of it is in memory, and until then an older version does not come back.
func TestNothingIsLeftOfExpiredTombstones(t *testing.T) {
	s := newStore()
	must(t, s.Apply(podMessage(streams.OpPut, "u1", "10")))
	must(t, s.Apply(podMessage(streams.OpDelete, "u1", "11")))
	if n := s.ExpireTombstones(time.Now().Add(-time.Hour)); n != 0 {
		t.Errorf("%d tombstones expired at once", n)
	}
	must(t, s.Apply(podMessage(streams.OpPut, "u1", "9")))
	if s.Get(Pods, podKey) != nil {
		t.Error("an older version came back")
	}
	if n := s.ExpireTombstones(time.Now().Add(time.Hour)); n != 1 {
		t.Errorf("%d tombstones expired, want 1", n)
	}
	if n := len(s.tables[Pods].entries); n != 0 {
		t.Errorf("%d entries are left", n)
	}
}

// TestUnreadableMessageChangesNothing applies messages that do not belong to their subject.
func TestUnreadableMessageChangesNothing(t *testing.T) {
	s := newStore()
	must(t, s.Apply(podMessage(streams.OpPut, "u1", "10")))
	before := s.Get(Pods, podKey)
	for name, object := range map[string]string{
		"not JSON": `{`, "another kind": `{"apiVersion":"v1","kind":"Secret"}`, "no kind": `{"apiVersion":"v1"}`,
		"labels are no map": `{"apiVersion":"v1","kind":"Pod","metadata":{"labels":[]}}`,
	} {
		m := podMessage(streams.OpPut, "u1", "11")
		m.Object = []byte(object)
		if err := s.Apply(m); !errors.Is(err, streams.ErrUndecodable) {
			t.Errorf("%s: %v, want ErrUndecodable", name, err)
		}
	}
	virtual := streams.Message{
		Ref: streams.Ref{Group: "authentication.k8s.io", Resource: "tokenreviews", Name: "a"}, Op: streams.OpPut,
		Object: []byte(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview"}`),
	}
	if err := s.Apply(virtual); !errors.Is(err, streams.ErrUndecodable) {
		t.Errorf("a virtual resource: %v, want ErrUndecodable", err)
	}
	if s.Get(Pods, podKey) != before {
		t.Error("the object has changed")
	}
	if _, err := s.SetLocal(schema.GroupResource{Resource: "unknown"}, podKey, &Local{Op: streams.OpPut, Body: []byte(`{}`)}); err == nil {
		t.Error("local state of an unknown resource is stored")
	}
}

// TestCSINodeFollowsTheUIDOfItsNode gives a node another UID: its CSINode changes with it.
func TestCSINodeFollowsTheUIDOfItsNode(t *testing.T) {
	s := newStore()
	k := Key{Name: "n"}
	_, err := s.SetLocal(Nodes, k, &Local{Op: streams.OpCreate, UID: "own", Body: []byte(`{"metadata":{"name":"n","uid":"own"}}`)})
	must(t, err)
	csi, err := s.SetLocal(CSINodes, k, &Local{Op: streams.OpCreate, UID: "c", Body: []byte(`{"metadata":{"name":"n","uid":"c","ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n","uid":"own"}]}}`)})
	must(t, err)
	must(t, s.Apply(streams.Message{
		Ref: streams.Ref{Node: "n", Resource: "nodes", Name: "n"}, Op: streams.OpPut, UID: "cloud", Version: "1",
		Object: []byte(`{"apiVersion":"v1","kind":"Node","metadata":{"name":"n","uid":"cloud"}}`),
	}))
	var o struct{ Metadata metav1.ObjectMeta }
	after := s.Get(CSINodes, k)
	must(t, json.Unmarshal(after.JSON, &o))
	var owners []string
	for _, ref := range o.Metadata.OwnerReferences {
		owners = append(owners, string(ref.UID))
	}
	if !slices.Equal(owners, []string{"own", "cloud"}) || after.ResourceVersion <= csi.ResourceVersion {
		t.Errorf("owners = %v at %d, created at %d", owners, after.ResourceVersion, csi.ResourceVersion)
	}
}
