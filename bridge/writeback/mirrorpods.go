package writeback

import (
	"maps"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge/bounds"
	"github.com/petiole-io/petiole/bridge/kube"
)

// mirrorPodsLag is the time after which the informer has seen a mirror pod that was created.
const mirrorPodsLag = time.Minute

// mirrorPods bounds the mirror pods of nodes. Only the bridge creates them. It is safe for
// concurrent use.
type mirrorPods struct {
	mu sync.Mutex
	// admitted holds the mirror pods of each node that the informer may not have seen.
	admitted map[string]map[kube.Key]time.Time
}

func newMirrorPods() *mirrorPods {
	return &mirrorPods{admitted: map[string]map[kube.Key]time.Time{}}
}

// admit reports whether a node can have a mirror pod besides those that are present.
func (m *mirrorPods) admit(node string, k kube.Key, present []kube.Key, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n, pods := range m.admitted {
		maps.DeleteFunc(pods, func(_ kube.Key, at time.Time) bool { return now.Sub(at) >= mirrorPodsLag })
		if len(pods) == 0 {
			delete(m.admitted, n)
		}
	}
	all := map[kube.Key]bool{}
	for _, p := range present {
		all[p] = true
	}
	for p := range m.admitted[node] {
		all[p] = true
	}
	if !all[k] && len(all) >= bounds.MaxMirrorPods {
		return false
	}
	if m.admitted[node] == nil {
		m.admitted[node] = map[kube.Key]time.Time{}
	}
	m.admitted[node][k] = now
	return true
}

// mirrorPodsOn returns the mirror pods of a node.
func (w *podWriter) mirrorPodsOn(node string) (pods []kube.Key) {
	for _, k := range w.Sites.BoundTo([]string{node}) {
		if o := w.Cache.Get(k); o != nil && o.GetAnnotations()[corev1.MirrorPodAnnotationKey] != "" {
			pods = append(pods, k)
		}
	}
	return pods
}

// kubeletConfigPrefix is the prefix of the annotations by which a kubelet knows its mirror pods.
const kubeletConfigPrefix = "kubernetes.io/config."

// keepMirrorMeta removes what would have others act on a mirror pod. A site creates it in a
// namespace of its choice: Services and NetworkPolicies select pods by labels, and would send a
// site the traffic of others, or accept its own; collectors of metrics read annotations.
func keepMirrorMeta(m *metav1.ObjectMeta) {
	m.Labels = nil
	maps.DeleteFunc(m.Annotations, func(k, _ string) bool { return !strings.HasPrefix(k, kubeletConfigPrefix) })
}
