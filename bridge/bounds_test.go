package bridge

import (
	"encoding/json"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/petiole-io/petiole/streams"
)

// A limited number of a site's reports waits for the API server; a newer report of an object
// replaces the older one.
func TestWaitingReportsAreCounted(t *testing.T) {
	t.Parallel()
	r := newReports()
	k := func(name string) reportKey {
		return reportKey{"plant-a", streams.Ref{Node: "n", Resource: "pods", Namespace: "d", Name: name}}
	}
	r.put(k("a"), &report{seq: 1, pending: true})
	r.put(k("a"), &report{seq: 2, pending: true})
	r.put(k("b"), &report{seq: 3, pending: true})
	r.put(k("old"), &report{seq: 4})
	if n := maxWaiting - r.room("plant-a"); n != 2 {
		t.Errorf("%d wait, want 2", n)
	}
	r.waitForNode(k("a"), 1)
	r.waitForNode(k("a"), 2)
	r.waitForNode(k("a"), 2)
	r.resolve(k("b"), 3, true)
	if n := maxWaiting - r.room("plant-a"); n != 0 || len(r.waiting) != 0 {
		t.Errorf("%d wait, want none: %v", n, r.waiting)
	}
	if !r.has(k("a"), 2) || r.has(k("a"), 3) || r.has(k("b"), 3) {
		t.Error("what is held is not what is known")
	}
	r.put(k("a"), &report{seq: 5, pending: true})
	if n := maxWaiting - r.room("plant-a"); n != 1 {
		t.Errorf("%d wait after a parked report was replaced, want 1", n)
	}
}

// Any status that a site reports of a pod or a node is either rejected or becomes a patch with
// preconditions.
func FuzzReportedStatus(f *testing.F) {
	f.Add([]byte(`{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`))
	f.Add([]byte(`{"status":{"addresses":[{"type":"InternalIP","address":"10.1.0.1"}],"conditions":[{"type":"Ready"}],"capacity":{"cpu":"1"}}}`))
	f.Add([]byte(`{"status":{"containerStatuses":[{},{"name":"c"}]}}`))
	pod := &corev1.Pod{}
	pod.UID, pod.ResourceVersion = "u", "7"
	node := &corev1.Node{}
	node.UID, node.ResourceVersion = "u", "7"
	guarded := func(t *testing.T, patch []byte) {
		var p struct {
			Metadata struct{ UID, ResourceVersion string }
		}
		if err := json.Unmarshal(patch, &p); err != nil || p.Metadata.UID != "u" || p.Metadata.ResourceVersion != "7" {
			t.Fatalf("patch without preconditions: %s (%v)", patch, err)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if streams.CheckJSON(data, maxReportObjects) != nil {
			return
		}
		var p corev1.Pod
		if json.Unmarshal(data, &p) == nil {
			if patch, err := podStatusPatch(pod, p.Status); err == nil && patch != nil {
				guarded(t, patch)
			}
		}
		var n corev1.Node
		if json.Unmarshal(data, &n) == nil {
			wanted := node.DeepCopy()
			wanted.Status = mergeNodeStatus(node.Status, n.Status, true, time.Unix(1, 0))
			if patch, err := nodeStatusPatch(node, wanted); err == nil {
				guarded(t, patch)
			}
		}
	})
}
