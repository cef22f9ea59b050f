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
)

// nodeReturn is for how long the site of a node that was deleted is left as it is, pods
// included: a node that is heard is registered again well before.
const nodeReturnGrace = 15 * time.Second

// deletedNodes remembers the nodes of sites that were deleted in the API, until they are
// back: what people had set on them is known to nobody else. It does not outlive the
// bridge. It is safe for concurrent use.
type deletedNodes struct {
	mu    sync.Mutex
	nodes map[string]*unstructured.Unstructured
}

func newDeletedNodes() *deletedNodes {
	return &deletedNodes{nodes: map[string]*unstructured.Unstructured{}}
}

// put remembers an object that was deleted if it is a node of a site.
func (d *deletedNodes) add(k objectKey, o *unstructured.Unstructured) {
	if k.Group != "" || k.Resource != "nodes" || o.GetLabels()[v1alpha1.SiteLabel] == "" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nodes[k.Name] = o
}

// of is the node of a site as it was when it was deleted, nil when it was not.
func (d *deletedNodes) get(site, name string) (*corev1.Node, error) {
	d.mu.Lock()
	o := d.nodes[name]
	d.mu.Unlock()
	if o == nil || o.GetLabels()[v1alpha1.SiteLabel] != site {
		return nil, nil
	}
	node := &corev1.Node{}
	return node, fromUnstructured(o, node)
}

func (d *deletedNodes) forget(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.nodes, name)
}

// setByPeople returns the taints of a node but those by which Kubernetes tells of conditions,
// and whether it was cordoned.
func userSettings(was corev1.NodeSpec) (taints []corev1.Taint, unschedulable bool) {
	for _, t := range was.Taints {
		if !strings.HasPrefix(t.Key, "node.kubernetes.io/") {
			taints = append(taints, t)
		}
	}
	return taints, was.Unschedulable
}

// restore gives a node that is back after it was deleted the labels and annotations that it
// had and has no more, and replaces current by the changed node. NodeRestriction forbids the
// node to set most of them itself.
func (w *writeback) restore(ctx context.Context, site string, current *corev1.Node) error {
	was, err := w.deleted.get(site, current.Name)
	if err != nil || was == nil || was.UID == current.UID {
		return err
	}
	labels, annotations := missingKeys(current.Labels, was.Labels), missingKeys(current.Annotations, was.Annotations)
	meta := preconditions(current.UID, current.ResourceVersion)
	meta["labels"], meta["annotations"] = labels, annotations
	patch, err := json.Marshal(map[string]any{"metadata": meta})
	if err != nil {
		return fmt.Errorf("encode labels of node %s: %w", current.Name, err)
	}
	changed, err := w.clients.own.CoreV1().Nodes().Patch(ctx, current.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return classify(err)
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
