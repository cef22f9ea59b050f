package bridge

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/kube"
)

// nodeReturnGrace is the time for which a deleted node's site keeps the node and its pods: a
// node that is alive registers again well before.
const nodeReturnGrace = 15 * time.Second

// deletedNodes holds the last state of deleted nodes of sites until they register again,
// because nothing else knows what users had set on them. It does not survive a restart of the
// bridge. It is safe for concurrent use.
type deletedNodes struct {
	mu    sync.Mutex
	nodes map[string]*unstructured.Unstructured
}

func newDeletedNodes() *deletedNodes {
	return &deletedNodes{nodes: map[string]*unstructured.Unstructured{}}
}

// add stores a deleted object if it is a node of a site.
func (d *deletedNodes) add(k kube.Key, o *unstructured.Unstructured) {
	if k.Group != "" || k.Resource != "nodes" || o.GetLabels()[v1alpha1.SiteLabel] == "" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nodes[k.Name] = o
}

// get returns the last state of a deleted node of the site, nil if it was not deleted.
func (d *deletedNodes) get(site, name string) (*corev1.Node, error) {
	d.mu.Lock()
	o := d.nodes[name]
	d.mu.Unlock()
	if o == nil || o.GetLabels()[v1alpha1.SiteLabel] != site {
		return nil, nil
	}
	node := &corev1.Node{}
	return node, kube.Decode(o, node)
}

func (d *deletedNodes) forget(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.nodes, name)
}

// userSettings returns the taints of a node except those by which Kubernetes shows conditions,
// and whether the node was cordoned.
func userSettings(was corev1.NodeSpec) (taints []corev1.Taint, unschedulable bool) {
	for _, t := range was.Taints {
		if !strings.HasPrefix(t.Key, "node.kubernetes.io/") {
			taints = append(taints, t)
		}
	}
	return taints, was.Unschedulable
}

// restore gives a node that has registered again after its deletion the labels and annotations
// that it lost, and updates current. NodeRestriction forbids the node to set most of them
// itself.
func (w *writeback) restore(ctx context.Context, site string, current *corev1.Node) error {
	was, err := w.deleted.get(site, current.Name)
	if err != nil || was == nil || was.UID == current.UID {
		return err
	}
	labels, annotations := missingKeys(current.Labels, was.Labels), missingKeys(current.Annotations, was.Annotations)
	meta := kube.Preconditions(current.UID, current.ResourceVersion)
	meta["labels"], meta["annotations"] = labels, annotations
	patch, err := json.Marshal(map[string]any{"metadata": meta})
	if err != nil {
		return fmt.Errorf("encode labels of node %s: %w", current.Name, err)
	}
	changed, err := w.clients.Own.CoreV1().Nodes().Patch(ctx, current.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return kube.Classify(err)
	}
	*current = *changed
	w.deleted.forget(current.Name)
	w.log.Info("node registered again after it was deleted", zap.String("site", site), zap.String("node", current.Name))
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
