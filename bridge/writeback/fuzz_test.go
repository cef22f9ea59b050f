package writeback

import (
	"encoding/json"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/petiole-io/petiole/streams"
)

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
		if streams.CheckJSON(data, 20_000) != nil {
			return // no report has as many objects
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
