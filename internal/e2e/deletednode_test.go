package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/internal/e2e/rig"
)

// nodeReturnGoal is from `kubectl delete node` to the node being Ready again.
const nodeReturnGoal = 10 * time.Second

// TestDeletedNode deletes a node as people do by mistake: it comes back by itself with its
// labels, its containers run on, and a kubelet that is killed then starts again and creates
// the node Ready.
func TestDeletedNode(t *testing.T) {
	site := lab.Sites[0]
	p := newPlant(t, site, "deleted-node", 1, 0)
	p.settle(t)
	nodes, csiNodes := lab.Kube.CoreV1().Nodes(), lab.Kube.StorageV1().CSINodes()
	label := func(ctx context.Context, patch string) {
		_, err := nodes.Patch(ctx, site.Node, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		must(t, err)
	}
	label(t.Context(), `{"metadata":{"labels":{"hall":"3"}}}`)
	t.Cleanup(func() { label(context.Background(), `{"metadata":{"labels":{"hall":null}}}`) })
	was, err := nodes.Get(t.Context(), site.Node, metav1.GetOptions{})
	must(t, err)
	living := got[map[string]string](t)(p.running(t.Context()))

	must(t, nodes.Delete(t.Context(), site.Node, metav1.DeleteOptions{}))
	var uid types.UID
	back := func(ctx context.Context) error {
		n, err := nodes.Get(ctx, site.Node, metav1.GetOptions{})
		switch {
		case err != nil:
			return err
		case n.UID == was.UID:
			return errors.New("it has not been deleted yet")
		case n.Labels["hall"] != "3":
			return fmt.Errorf("its labels are %v", n.Labels)
		}
		uid = n.UID
		return nodeReady(site.Node)(ctx)
	}
	measured(t, "kubectl delete node → Ready again", eventually(t, time.Minute, "the node is back", back), nodeReturnGoal)
	owned := func(ctx context.Context) error {
		n, err := csiNodes.Get(ctx, site.Node, metav1.GetOptions{})
		if err == nil && (len(n.OwnerReferences) != 1 || n.OwnerReferences[0].UID != uid) {
			err = fmt.Errorf("its owners are %+v, want %s", n.OwnerReferences, uid)
		}
		return err
	}
	eventually(t, time.Minute, "the CSINode belongs to the node that is back", owned)

	before := got[rig.Process](t)(site.Kubelet())
	must(t, before.Kill(t.Context()))
	var kubelet rig.Process
	eventually(t, time.Minute, "another kubelet runs", func(context.Context) (err error) {
		if kubelet, err = site.Kubelet(); err == nil && kubelet.Same(before) {
			err = errors.New("the old one still runs")
		}
		return err
	})
	eventually(t, 2*time.Minute, "the node is Ready some time after the kubelet's start", func(ctx context.Context) error {
		if err := kubeletSettled(site); err != nil {
			return err
		}
		return nodeReady(site.Node)(ctx)
	})
	must(t, owned(t.Context()))
	if now := got[rig.Process](t)(site.Kubelet()); !now.Same(kubelet) {
		t.Error("the kubelet has died again")
	}
	p.stillRunning(t, living)
}
