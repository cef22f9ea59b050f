package writeback

import (
	"context"
	"strings"
	"sync"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/kube"
)

// DeletedNodes holds the last state of deleted nodes of sites until they register again,
// because nothing else knows what users had set on them. It does not survive a restart of the
// bridge. It is safe for concurrent use.
type DeletedNodes struct {
	mu    sync.Mutex
	nodes map[string]*unstructured.Unstructured
}

// NewDeletedNodes returns an empty set.
func NewDeletedNodes() *DeletedNodes {
	return &DeletedNodes{nodes: map[string]*unstructured.Unstructured{}}
}

// Add stores a deleted object if it is a node of a site.
func (d *DeletedNodes) Add(k kube.Key, o *unstructured.Unstructured) {
	if k.Group != "" || k.Resource != "nodes" || o.GetLabels()[v1alpha1.SiteLabel] == "" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nodes[k.Name] = o
}

// get returns the last state of a deleted node of the site, nil if it was not deleted.
func (d *DeletedNodes) get(site, name string) (*corev1.Node, error) {
	d.mu.Lock()
	o := d.nodes[name]
	d.mu.Unlock()
	if o == nil || o.GetLabels()[v1alpha1.SiteLabel] != site {
		return nil, nil
	}
	node := &corev1.Node{}
	return node, kube.Decode(o, node)
}

func (d *DeletedNodes) forget(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.nodes, name)
}

// userSettings returns the taints of a node except those by which Kubernetes and the bridge show
// its state, and whether the node was cordoned.
func userSettings(was corev1.NodeSpec) (taints []corev1.Taint, unschedulable bool) {
	for _, t := range was.Taints {
		if !strings.HasPrefix(t.Key, "node.kubernetes.io/") && t.Key != v1alpha1.SiteDeletedTaint {
			taints = append(taints, t)
		}
	}
	return taints, was.Unschedulable
}

// restore gives a node that has registered again after its deletion the labels and annotations
// that it lost, and updates current. NodeRestriction forbids the node to set most of them
// itself.
func (w *nodeWriter) restore(ctx context.Context, site string, current *corev1.Node) error {
	was, err := w.Deleted.get(site, current.Name)
	if err != nil || was == nil || was.UID == current.UID {
		return err
	}
	labels, annotations := missingKeys(current.Labels, was.Labels), missingKeys(current.Annotations, was.Annotations)
	if err := addMetadata(ctx, w.Clients.Own.CoreV1().Nodes(), current, labels, annotations); err != nil {
		return err
	}
	w.Deleted.forget(current.Name)
	w.Log.Info("node registered again after it was deleted", zap.String("site", site), zap.String("node", current.Name))
	return nil
}

func missingKeys(have, had map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range had {
		if _, ok := have[k]; !ok {
			out[k] = v
		}
	}
	return out
}
