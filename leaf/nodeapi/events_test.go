package nodeapi

import (
	"bytes"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/streams"
)

func TestEventsAndCSINodesAreReported(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	dir := t.TempDir()
	r := l.start(dir)
	c := r.proto()
	ev := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: "default", Name: "a.1"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "a"}, Reason: "Pulled", Count: 1,
	}
	_, err := c.CoreV1().Events("default").Create(t.Context(), ev, metav1.CreateOptions{})
	must(t, err)
	_, err = c.CoreV1().Events("default").Patch(t.Context(), "a.1", types.StrategicMergePatchType, []byte(`{"count":2}`), metav1.PatchOptions{})
	must(t, err)
	m, _ := l.reported(streams.Ref{Node: node, Resource: "events", Namespace: "default", Name: "a.1"})
	if m == nil || m.Op != streams.OpPut || !bytes.Contains(m.Object, []byte(`"count":2`)) {
		t.Errorf("reported event = %+v", m)
	}
	_, err = c.StorageV1().CSINodes().Create(t.Context(), &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: node}}, metav1.CreateOptions{})
	must(t, err)
	if m, _ := l.reported(streams.Ref{Node: node, Group: "storage.k8s.io", Resource: "csinodes", Name: node}); m == nil || m.Op != streams.OpCreate {
		t.Errorf("reported csinode = %+v", m)
	}
	must(t, c.ResourceV1().ResourceSlices().DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node}))
	r.stop()
	r = l.start(dir)
	list, err := r.json().CoreV1().Events("").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=a,involvedObject.kind=Pod"})
	must(t, err)
	if len(list.Items) != 1 || list.Items[0].Count != 2 {
		t.Errorf("events after a restart = %+v", list.Items)
	}
	if _, err := r.json().StorageV1().CSINodes().Get(t.Context(), node, metav1.GetOptions{}); err != nil {
		t.Errorf("csinode after a restart: %v", err)
	}
}
