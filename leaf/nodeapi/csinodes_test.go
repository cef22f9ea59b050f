package nodeapi

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/streams"
)

func csiNodeRef() streams.Ref {
	return streams.Ref{Node: node, Group: "storage.k8s.io", Resource: "csinodes", Name: node}
}

// csiNodeOf returns the CSINode that the kubelet creates for its node.
func csiNodeOf(uid types.UID) *storagev1.CSINode {
	return &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{
		Name:            node,
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node, UID: uid}},
	}}
}

// cloudNode publishes the desired node with a UID.
func (l *leaf) cloudNode(uid, version string) uint64 {
	return l.send(streams.Ref{Node: node, Resource: "nodes", Name: node}, streams.OpPut, uid, version, &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: node, UID: types.UID(uid), ResourceVersion: version},
	})
}

// TestCSINodeIsDeletedAndCreatedAgain deletes a CSINode, as a kubelet does that finds one of
// another node, and creates it again. Both are reported, the later report replaces the
// earlier one, and both survive a restart.
func TestCSINodeIsDeletedAndCreatedAgain(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	dir := t.TempDir()
	r := l.start(dir)
	csi := r.proto().StorageV1().CSINodes()
	made, err := csi.Create(t.Context(), csiNodeOf("gone"), metav1.CreateOptions{})
	must(t, err)
	wrong := types.UID("another")
	if err := csi.Delete(t.Context(), node, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &wrong}}); !apierrors.IsConflict(err) {
		t.Errorf("delete of another UID: %v, want a conflict", err)
	}
	must(t, csi.Delete(t.Context(), node, metav1.DeleteOptions{}))
	if m, _ := l.reported(csiNodeRef()); m == nil || m.Op != streams.OpDelete || m.UID != string(made.UID) || len(m.Object) != 0 {
		t.Errorf("reported = %+v", m)
	}
	if err := csi.Delete(t.Context(), node, metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("second delete: %v, want not found", err)
	}
	r.stop()
	r = l.start(dir)
	csi = r.proto().StorageV1().CSINodes()
	if _, err := csi.Get(t.Context(), node, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after a restart: %v, want not found", err)
	}
	again, err := csi.Create(t.Context(), csiNodeOf("back"), metav1.CreateOptions{})
	must(t, err)
	if again.UID == made.UID {
		t.Error("made again with the UID of the former")
	}
	r.stop()
	r = l.start(dir)
	got, err := r.json().StorageV1().CSINodes().Get(t.Context(), node, metav1.GetOptions{})
	must(t, err)
	m, _ := l.reported(csiNodeRef())
	var up storagev1.CSINode
	must(t, json.Unmarshal(m.Object, &up))
	if got.UID != again.UID || m.Op != streams.OpCreate || len(up.OwnerReferences) != 1 || up.OwnerReferences[0].UID != "back" {
		t.Errorf("after another restart: %+v, reported %s %+v", got, m.Op, up)
	}
}

// TestCSINodeIsOwnedByThePresentNode gives the node another UID, as the cloud does when the
// node registers and when it comes back after a deletion. The CSINode is owned by it at once,
// and still by the node that a running kubelet knows.
func TestCSINodeIsOwnedByThePresentNode(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	dir := t.TempDir()
	r := l.start(dir)
	c := r.proto()
	made, err := c.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}, metav1.CreateOptions{})
	must(t, err)
	_, err = c.StorageV1().CSINodes().Create(t.Context(), csiNodeOf(made.UID), metav1.CreateOptions{})
	must(t, err)
	owners := func() (all []types.UID) {
		t.Helper()
		n, err := r.json().StorageV1().CSINodes().Get(t.Context(), node, metav1.GetOptions{})
		must(t, err)
		for _, o := range n.OwnerReferences {
			all = append(all, o.UID)
		}
		return all
	}
	check := func(when string, known, is types.UID) {
		t.Helper()
		if got := owners(); len(got) != 2 || got[0] != known || got[1] != is {
			t.Errorf("%s the owners are %v, want %s, which the kubelet knows, and %s", when, got, known, is)
		}
	}
	r.applied(l.cloudNode("first", "50"))
	check("registered", made.UID, "first")
	r.stop()
	r = l.start(dir)
	check("after a restart", made.UID, "first")

	// The kubelet, which knows the node as the cloud's now, writes what it read.
	n, err := r.json().StorageV1().CSINodes().Get(t.Context(), node, metav1.GetOptions{})
	must(t, err)
	n.Spec.Drivers = []storagev1.CSINodeDriver{{Name: "nfs", NodeID: node}}
	_, err = r.proto().StorageV1().CSINodes().Update(t.Context(), n, metav1.UpdateOptions{})
	must(t, err)
	l.send(streams.Ref{Node: node, Resource: "nodes", Name: node}, streams.OpDelete, "first", "60", nil)
	r.applied(l.cloudNode("second", "70"))
	check("deleted and back", "first", "second")
	n, err = r.json().StorageV1().CSINodes().Get(t.Context(), node, metav1.GetOptions{})
	if err != nil || len(n.Spec.Drivers) != 1 {
		t.Errorf("its drivers are %+v, %v", n.Spec.Drivers, err)
	}
}
