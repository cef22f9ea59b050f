package bridgetest

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/streams"
)

// TestDeletedNode deletes nodes with kubectl's request, each under a Site of its own.
func TestDeletedNode(t *testing.T) {
	runAll(t, []sharing{
		{"ComesBackAsItWas", deletedNodeComesBack},
		{"ComesBackWhenItIsHeard", deletedNodeComesBackWhenHeard},
		{"CSINodeIsReplaced", csiNodeIsReplaced},
	})
}

// csiNode is the API's CSINode of a1, nil without one.
func (w *world) csiNode() *storagev1.CSINode {
	w.t.Helper()
	n, err := w.admin.StorageV1().CSINodes().Get(w.ctx, "a1", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	w.must(err)
	return n
}

var csiRef = streams.Ref{Node: "a1", Group: "storage.k8s.io", Resource: "csinodes", Name: "a1"}

// reportCSINode reports the CSINode of a1 as its kubelet makes it, owned by a node of a UID.
func (s *site) reportCSINode(op streams.Op, owner types.UID, drivers ...string) {
	s.t.Helper()
	n := storagev1.CSINode{TypeMeta: metav1.TypeMeta{APIVersion: "storage.k8s.io/v1", Kind: "CSINode"}, ObjectMeta: metav1.ObjectMeta{
		Name: "a1", OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "a1", UID: owner}},
	}}
	for _, d := range drivers {
		n.Spec.Drivers = append(n.Spec.Drivers, storagev1.CSINodeDriver{Name: d, NodeID: "a1"})
	}
	s.report(op, csiRef, "", n)
}

func ownedBy(n *storagev1.CSINode, uid types.UID) bool {
	return n != nil && len(n.OwnerReferences) == 1 && n.OwnerReferences[0].UID == uid
}

// back waits until a1 is in the API again, and ready.
func (w *world) back(former types.UID) (node *corev1.Node) {
	w.t.Helper()
	eventually(w.t, "node a1 again, ready, with what people had set on it", func() bool {
		n, err := w.admin.CoreV1().Nodes().Get(w.ctx, "a1", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false
		}
		w.must(err)
		node = n
		return n.UID != former && nodeCondition(n, corev1.NodeReady) == corev1.ConditionTrue && n.Labels["zone"] == "north"
	})
	return node
}

// deleteMarked sets on a1 what people set, and deletes it.
func (w *world) deleteMarked(node *corev1.Node) {
	w.t.Helper()
	mark := []byte(`{"metadata":{"labels":{"zone":"north","node-role.kubernetes.io/press":""},"annotations":{"note":"in hall 3"}},
		"spec":{"unschedulable":true,"taints":[{"key":"dedicated","value":"press","effect":"NoSchedule"}]}}`)
	_, err := w.admin.CoreV1().Nodes().Patch(w.ctx, "a1", types.StrategicMergePatchType, mark, metav1.PatchOptions{})
	w.must(err)
	w.awaitDesired("plant-a", streams.Ref{Node: "a1", Resource: "nodes", Name: "a1"}, "with its label", contains("north"))
	w.must(w.admin.CoreV1().Nodes().Delete(w.ctx, "a1", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &node.UID}}))
}

func checkMarks(t *testing.T, n *corev1.Node) {
	t.Helper()
	tainted := false
	for _, taint := range n.Spec.Taints {
		tainted = tainted || taint.Key == "dedicated" && taint.Value == "press"
	}
	if !tainted || !n.Spec.Unschedulable || !hasLabel(n, "node-role.kubernetes.io/press") || n.Annotations["note"] != "in hall 3" {
		t.Errorf("it lacks what people had set: %+v %+v", n.ObjectMeta, n.Spec)
	}
}

// deletedNodeComesBack deletes a node that is heard. It is back by itself from its last
// report, with labels, taints and its CSINode, and the site has never been told that a pod
// of it is to go.
func deletedNodeComesBack(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	b := w.start("one")
	s := w.site("plant-a")
	node := s.register("a1")
	s.beat(0, "a1")
	s.reportCSINode(streams.OpCreate, node.UID, "nfs")
	eventually(t, "CSINode", func() bool { return ownedBy(w.csiNode(), node.UID) })
	w.configMap("settings", "1")
	w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")
	_, podSeq := w.desired("plant-a", w.podRef("web", "a1"))
	dropped := b.Counters().Dropped

	s.beat(0, "a1")
	w.deleteMarked(node)
	again := w.back(node.UID)
	checkMarks(t, again)
	// What the garbage collector does, of which there is none here, comes to the same.
	eventually(t, "CSINode under the node that is back", func() bool {
		n := w.csiNode()
		return ownedBy(n, again.UID) && len(n.Spec.Drivers) == 1
	})
	w.awaitDesired("plant-a", streams.Ref{Node: "a1", Resource: "nodes", Name: "a1"}, "is back", func(m *streams.Message) bool { return isPut(m) && m.UID == string(again.UID) })
	if m, seq := w.desired("plant-a", w.podRef("web", "a1")); seq != podSeq || !isPut(m) {
		t.Errorf("the site was told something about the pod: %d %+v, before %d", seq, m, podSeq)
	}
	if n := b.Counters().Dropped; n != dropped {
		t.Errorf("%d reports were dropped", n-dropped)
	}

	// The CSINode that somebody else deletes is made again.
	w.must(a.admin.StorageV1().CSINodes().Delete(w.ctx, "a1", metav1.DeleteOptions{}))
	eventually(t, "CSINode again", func() bool { return ownedBy(w.csiNode(), again.UID) })
}

// deletedNodeComesBackWhenHeard deletes a node that the bridge has not heard: it is not
// registered, because it may be gone for good, and is as soon as it is heard.
func deletedNodeComesBackWhenHeard(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	b := w.start("one")
	s := w.site("plant-a")
	node := s.register("a1")
	// A report that is read again would show that the node lives.
	w.dealtWith("plant-a")
	b.stop()
	b = w.start("two")
	w.deleteMarked(node)
	w.awaitDesired("plant-a", streams.Ref{Node: "a1", Resource: "nodes", Name: "a1"}, "is taken away", tombstoneOf(node.UID))
	if _, err := a.admin.CoreV1().Nodes().Get(w.ctx, "a1", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a silent node is registered: %v", err)
	}
	s.beat(0, "a1")
	checkMarks(t, w.back(node.UID))
	if n := b.Counters().Quarantined; n != 0 {
		t.Errorf("%d reports are in quarantine", n)
	}
}

// csiNodeIsReplaced reports what a kubelet does that finds the CSINode of another node: it
// deletes it and makes another, which also arrive merged into one.
func csiNodeIsReplaced(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	b := w.start("one")
	s := w.site("plant-a")
	node := s.register("a1")
	s.beat(0, "a1")
	s.reportCSINode(streams.OpCreate, "local", "nfs")
	eventually(t, "CSINode", func() bool { return ownedBy(w.csiNode(), node.UID) })
	was := w.csiNode()

	s.report(streams.OpDelete, csiRef, "local-uid", nil)
	eventually(t, "CSINode deleted", func() bool { return w.csiNode() == nil })
	s.reportCSINode(streams.OpCreate, node.UID)
	eventually(t, "CSINode again", func() bool { return ownedBy(w.csiNode(), node.UID) })
	if n := w.csiNode(); n.UID == was.UID || len(n.Spec.Drivers) != 0 {
		t.Errorf("it is %+v", n)
	}

	// The CSINode of a former node, and only the report that makes the new one.
	b.stop()
	n := w.csiNode()
	n.OwnerReferences[0].UID = "former"
	former, err := a.admin.StorageV1().CSINodes().Update(w.ctx, n, metav1.UpdateOptions{})
	w.must(err)
	s.report(streams.OpDelete, csiRef, "local-uid", nil)
	s.reportCSINode(streams.OpCreate, node.UID, "iscsi")
	b = w.start("two")
	eventually(t, "CSINode replaced", func() bool {
		n := w.csiNode()
		return ownedBy(n, node.UID) && n.UID != former.UID && len(n.Spec.Drivers) == 1
	})

	// Nothing but its own is a node's to delete.
	s.report(streams.OpDelete, streams.Ref{Node: "a1", Group: "storage.k8s.io", Resource: "csinodes", Name: "a2"}, "x", nil)
	eventually(t, "quarantined", func() bool { return b.Counters().Quarantined == 1 })
}
