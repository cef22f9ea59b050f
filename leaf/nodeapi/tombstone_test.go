package nodeapi

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/leaf/nodeapi/local"
	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
	"github.com/petiole-io/petiole/streams"
)

// TestTombstonesExpire creates and deletes many pods: after local.TombstoneTTL nothing of them is in
// memory, and until then an older version does not come back.
func TestTombstonesExpire(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	r := l.start(t.TempDir())
	var seq uint64
	const pods = 200
	for i := range pods {
		name, uid := fmt.Sprintf("p-%d", i), fmt.Sprintf("u%d", i)
		l.pod(newPod(name, uid, "10"))
		seq = l.send(podRef("default", name), streams.OpDelete, uid, "11", nil)
	}
	r.applied(seq)
	if n := r.store.ExpireTombstones(time.Now().Add(-local.TombstoneTTL)); n != 0 {
		t.Fatalf("%d tombstones were forgotten at once", n)
	}
	r.applied(l.pod(newPod("p-0", "u0", "9")))
	if _, err := r.json().CoreV1().Pods("default").Get(t.Context(), "p-0", metav1.GetOptions{}); err == nil {
		t.Error("an older version came back after the delete")
	}
	if n := r.store.ExpireTombstones(time.Now().Add(time.Hour)); n != pods {
		t.Errorf("%d tombstones were forgotten, want %d", n, pods)
	}
	left := 0
	r.store.Each(objects.Pods, func(objects.Key, objects.State) { left++ })
	if left != 0 {
		t.Errorf("%d entries are left", left)
	}
}

// TestAppliedSource checks the position in the hub's stream.
func TestAppliedSource(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	r := l.start(t.TempDir())
	if n := r.AppliedSource(); n != 0 {
		t.Errorf("before anything: %d", n)
	}
	ref := streams.Ref{Resource: "configmaps", Namespace: "default", Name: "a"}
	m := streams.Message{Ref: ref, Op: streams.OpPut, UID: "u", Version: "1", Epoch: "e1", Object: []byte(`{"metadata":{"name":"a","namespace":"default","uid":"u"}}`)}
	msg := m.Encode(streams.DesiredSubject(site, ref))
	msg.Header.Set(streams.HeaderSource, streams.HubPosition{Seq: 4711, Identity: "i"}.String())
	ack, err := l.js.PublishMsg(t.Context(), msg)
	must(t, err)
	r.applied(ack.Sequence)
	if n := r.AppliedSource(); n != 4711 {
		t.Errorf("AppliedSource = %d, want 4711", n)
	}
}
