package nodeapi

import (
	"encoding/json"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/streams"
)

func TestNodeRegistersHereAndTakesTheCloudsIdentity(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	dir := t.TempDir()
	r := l.start(dir)
	c := r.proto()
	ref := streams.Ref{Node: node, Resource: "nodes", Name: node}
	if _, err := c.CoreV1().Nodes().Get(t.Context(), node, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatalf("before: %v", err)
	}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node, Labels: map[string]string{"kubernetes.io/hostname": node, "zone": "mine"}}}
	made, err := c.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{})
	must(t, err)
	if m, _ := l.reported(ref); m == nil || m.Op != streams.OpCreate || made.UID == "" || m.UID != string(made.UID) {
		t.Fatalf("reported = %+v for %+v", m, made)
	}
	if _, err := c.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("second create: %v", err)
	}
	n.Name = "plant-a-2"
	if _, err := c.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("create of another node: %v", err)
	}
	w, err := c.CoreV1().Nodes().Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + node})
	must(t, err)
	got := collect(t, w)
	cloud := &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: node, UID: "cloud", ResourceVersion: "50", Labels: map[string]string{"zone": "theirs", "petiole.dev/site": site}},
	}
	r.applied(l.send(ref, streams.OpPut, "cloud", "50", cloud))
	eventually(t, "the cloud's node, as the same node", func() bool {
		return got.kinds() == fmt.Sprintf("ADDED/%s/%s MODIFIED/%s/cloud", node, made.UID, node)
	})
	patch := `{"status":{"conditions":[{"type":"Ready","status":"True"}],"capacity":{"cpu":"2"}},"metadata":{"annotations":{"kubelet":"wrote"}}}`
	_, err = c.CoreV1().Nodes().Patch(t.Context(), node, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	must(t, err)
	m, _ := l.reported(ref)
	var up corev1.Node
	must(t, json.Unmarshal(m.Object, &up))
	if m.Op != streams.OpPut || m.UID != "cloud" || up.Annotations["kubelet"] != "wrote" || up.Labels["zone"] != "mine" ||
		up.Labels["petiole.dev/site"] != "" || up.Status.Capacity.Cpu().String() != "2" {
		t.Errorf("reported = %s %+v", m.Op, up)
	}
	// kubectl cordon on the gateway would have no effect in the cloud.
	_, err = c.CoreV1().Nodes().Patch(t.Context(), node, types.StrategicMergePatchType, []byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("cordon: %v, want forbidden", err)
	}
	r.stop()
	r = l.start(dir)
	back, err := r.json().CoreV1().Nodes().Get(t.Context(), node, metav1.GetOptions{})
	must(t, err)
	if back.UID != "cloud" || back.Labels["zone"] != "theirs" || back.Labels["kubernetes.io/hostname"] != node ||
		back.Annotations["kubelet"] != "wrote" || len(back.Status.Conditions) != 1 {
		t.Errorf("after a restart: %+v", back)
	}
}
