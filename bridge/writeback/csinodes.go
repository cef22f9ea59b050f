package writeback

import (
	"context"
	"encoding/json"
	"fmt"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/bridge/bounds"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/streams"
)

// csiNodeWriter writes reports about CSINodes.
type csiNodeWriter struct{ Config }

// csiNodeWithoutNode returns the result for a report about the CSINode of a node that does not
// exist. A deletion has nothing to do, because the CSINode is deleted with its node; an
// accepted report waits for the node to come back; a new report waits for the node to
// register.
func csiNodeWithoutNode(r Report, unknown error) error {
	switch {
	case r.Op == streams.OpDelete:
		return fmt.Errorf("%w: node %s", kube.ErrGone, r.Ref.Node)
	case !r.New:
		return fmt.Errorf("%w: %s is not registered", ErrNodeNotAlive, r.Ref.Node)
	}
	return unknown
}

// write writes the reported CSINode, with the API's node as its owner. A CSINode that
// belongs to an earlier node of that name is replaced, as a kubelet does: Kubernetes is about
// to collect it.
func (w *csiNodeWriter) write(ctx context.Context, r Report) error {
	var reported storagev1.CSINode
	if err := json.Unmarshal(r.Object, &reported); err != nil {
		return fmt.Errorf("%w: %w", kube.ErrRefused, err)
	}
	if err := w.checkSize(r, "object", len(r.Object), bounds.MaxNodeStatusBytes); err != nil {
		return err
	}
	if r.Ref.Name != r.Ref.Node || reported.Name != r.Ref.Node {
		return fmt.Errorf("%w: node %s reports CSINode %s", kube.ErrRefused, r.Ref.Node, r.Ref.Name)
	}
	node := w.Cache.Get(kube.CoreKey("nodes", "", r.Ref.Node))
	if node == nil {
		return fmt.Errorf("%w: %s", ErrNodeNotRegistered, r.Ref.Node)
	}
	current, err := w.get(r.Ref.Name)
	if err != nil {
		return err
	}
	if current != nil && !belongsTo(current, node.GetUID()) {
		if err := w.remove(ctx, r.Ref.Node, current); err != nil {
			return err
		}
		current = nil
	}
	as, err := w.Clients.As(r.Ref.Node)
	if err != nil {
		return err
	}
	nodes := as.Storage.CSINodes()
	if current == nil {
		clearServerFields(&reported.ObjectMeta)
		reported.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.GetName(), UID: node.GetUID()}}
		_, err = nodes.Create(ctx, &reported, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return err // the informer lags: compare at the next try
		}
		return kube.Classify(err)
	}
	if equality.Semantic.DeepEqual(current.Spec, reported.Spec) {
		return nil
	}
	current.Spec = reported.Spec
	_, err = nodes.Update(ctx, current, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return err // deleted meanwhile: create it at the next try
	}
	return kube.Classify(err)
}

// delete carries out a kubelet's deletion of the CSINode.
func (w *csiNodeWriter) delete(ctx context.Context, r Report) error {
	if r.Ref.Name != r.Ref.Node {
		return fmt.Errorf("%w: node %s reports CSINode %s", kube.ErrRefused, r.Ref.Node, r.Ref.Name)
	}
	current, err := w.get(r.Ref.Name)
	if err != nil || current == nil {
		return err
	}
	return w.remove(ctx, r.Ref.Node, current)
}

// remove deletes this version of the API's CSINode.
func (w *csiNodeWriter) remove(ctx context.Context, node string, current *storagev1.CSINode) error {
	as, err := w.Clients.As(node)
	if err != nil {
		return err
	}
	err = as.Storage.CSINodes().Delete(ctx, current.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &current.UID, ResourceVersion: &current.ResourceVersion},
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return kube.Classify(err)
}

// get returns the last known state of a CSINode, nil if there is none.
func (w *csiNodeWriter) get(name string) (*storagev1.CSINode, error) {
	o := w.Cache.Get(kube.CSINodeKey(name))
	if o == nil {
		return nil, nil
	}
	n := &storagev1.CSINode{}
	if err := kube.Decode(o, n); err != nil {
		return nil, err
	}
	return n, nil
}

// belongsTo reports whether a node with that UID owns the CSINode.
func belongsTo(n *storagev1.CSINode, node types.UID) bool {
	for _, o := range n.OwnerReferences {
		if o.Kind == "Node" && o.UID == node {
			return true
		}
	}
	return false
}
