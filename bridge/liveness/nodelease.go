package liveness

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	coordinationv1client "k8s.io/client-go/kubernetes/typed/coordination/v1"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/kube"
)

// Nodes holds the last known state of the API's nodes.
type Nodes interface {
	// Get returns the last known state of an object, nil if there is none.
	Get(k kube.Key) *unstructured.Unstructured
}

// NodeLeases renews the leases of the nodes in kube-node-lease. It is safe for concurrent
// use.
type NodeLeases struct {
	client coordinationv1client.LeaseInterface
	nodes  Nodes

	mu sync.Mutex
	// versions maps each node to the resource version that the last write of its lease
	// returned.
	versions map[string]string
}

// NewNodeLeases returns the leases of the given nodes.
func NewNodeLeases(c coordinationv1client.LeasesGetter, nodes Nodes) *NodeLeases {
	return &NodeLeases{client: c.Leases(corev1.NamespaceNodeLease), nodes: nodes, versions: map[string]string{}}
}

// renew renews the lease of a node, or creates it. It does nothing for a node that does not
// exist or belongs to another site.
func (l *NodeLeases) renew(ctx context.Context, site, node string) error {
	o := l.nodes.Get(kube.CoreKey("nodes", "", node))
	if o == nil || o.GetLabels()[v1alpha1.SiteLabel] != site {
		l.forget(node)
		return nil
	}
	version, err := l.version(ctx, node)
	if apierrors.IsNotFound(err) {
		version, err = l.create(ctx, node, o.GetUID())
	} else if err == nil {
		version, err = l.patch(ctx, node, version)
	}
	if err != nil {
		l.forget(node)
		return fmt.Errorf("renew lease of node %s: %w", node, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.versions[node] = version
	return nil
}

// forget drops the version of a node's lease: the next renewal asks for it.
func (l *NodeLeases) forget(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.versions, node)
}

// version returns the resource version of the lease: the one of this bridge's last write,
// or, before the first, that of an empty patch, since the bridge has no right to read
// leases.
func (l *NodeLeases) version(ctx context.Context, node string) (string, error) {
	l.mu.Lock()
	version := l.versions[node]
	l.mu.Unlock()
	if version != "" {
		return version, nil
	}
	lease, err := l.client.Patch(ctx, node, types.MergePatchType, []byte("{}"), metav1.PatchOptions{})
	if err != nil {
		return "", err
	}
	return lease.ResourceVersion, nil
}

// patch renews the lease if it still has that version, so that a late renewal by a former
// leader is rejected. It returns the new version.
func (l *NodeLeases) patch(ctx context.Context, node, version string) (string, error) {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": version}, "spec": leaseSpec(node),
	})
	if err != nil {
		return "", err
	}
	lease, err := l.client.Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return "", err
	}
	return lease.ResourceVersion, nil
}

func (l *NodeLeases) create(ctx context.Context, node string, uid types.UID) (string, error) {
	lease, err := l.client.Create(ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: node, OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "v1", Kind: "Node", Name: node, UID: uid},
		}},
		Spec: leaseSpec(node),
	}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return lease.ResourceVersion, nil
}

// leaseSpec returns the spec of a lease that is renewed now.
func leaseSpec(node string) coordinationv1.LeaseSpec {
	now, seconds := metav1.NowMicro(), int32(nodeLeaseDuration/time.Second)
	return coordinationv1.LeaseSpec{HolderIdentity: &node, LeaseDurationSeconds: &seconds, RenewTime: &now}
}
