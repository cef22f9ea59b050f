package writeback

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/names"
)

// claim records that the site has the name of a node that is about to register.
func (w *nodeWriter) claim(ctx context.Context, site, node string) error {
	err := w.Names.Claim(ctx, site, node, w.Sites.NodesOf(site))
	var refusal *names.Refusal
	if errors.As(err, &refusal) {
		w.Problems.Add(site, v1alpha1.ConditionNodesAccepted, refusal.Reason, node, refusal.Error())
		return fmt.Errorf("%w: %w", kube.ErrRefused, err)
	}
	if err == nil {
		w.Problems.Solved(site, v1alpha1.ConditionNodesAccepted, node)
	}
	return err
}

// applySpec sets what NodeRestriction forbids nodes to set: the role label, and the labels and
// taints of the Site's spec. It updates current.
func (w *nodeWriter) applySpec(ctx context.Context, current *corev1.Node, spec *v1alpha1.SiteNodes) error {
	nodes := w.Clients.Own.CoreV1().Nodes()
	if labels := changedKeys(current.Labels, cloudLabels(current, spec), func(string) bool { return true }); len(labels) > 0 {
		if err := addMetadata(ctx, nodes, current, labels, nil); err != nil {
			return err
		}
	}
	taints := withTaints(current.Spec.Taints, spec)
	if len(taints) == len(current.Spec.Taints) && slices.Equal(keysOfTaints(taints), keysOfTaints(current.Spec.Taints)) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": kube.Preconditions(current.UID, current.ResourceVersion), "spec": map[string]any{"taints": taints},
	})
	if err != nil {
		return fmt.Errorf("encode taints of node %s: %w", current.Name, err)
	}
	changed, err := nodes.Patch(ctx, current.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return kube.Classify(err)
	}
	*current = *changed
	return nil
}

// cloudLabels returns the labels that the cloud sets on a node: those of the Site's spec, and
// the role label unless the node has it with another value.
func cloudLabels(current *corev1.Node, spec *v1alpha1.SiteNodes) map[string]string {
	labels := map[string]string{v1alpha1.EdgeRoleLabel: current.Labels[v1alpha1.EdgeRoleLabel]}
	if spec != nil {
		maps.Copy(labels, spec.Labels)
	}
	return labels
}

// withTaints returns the taints with those of the Site's spec, which take the place of others
// with the same key and effect. It is a pure function.
func withTaints(taints []corev1.Taint, spec *v1alpha1.SiteNodes) []corev1.Taint {
	if spec == nil {
		return taints
	}
	out := slices.Clone(taints)
	for _, s := range spec.Taints {
		t := corev1.Taint{Key: s.Key, Value: s.Value, Effect: corev1.TaintEffect(s.Effect)}
		i := slices.IndexFunc(out, func(o corev1.Taint) bool { return o.MatchTaint(&t) })
		switch {
		case i < 0:
			out = append(out, t)
		case out[i].Value != t.Value:
			out[i] = t
		}
	}
	return out
}

// keysOfTaints returns what identifies taints, and their values.
func keysOfTaints(taints []corev1.Taint) []string {
	var keys []string
	for _, t := range taints {
		keys = append(keys, t.ToString())
	}
	return keys
}

// ownedByKubelet returns a function that reports whether a node sets a label itself: one of
// those of a kubelet that the Site's spec does not set.
func ownedByKubelet(spec *v1alpha1.SiteNodes) func(label string) bool {
	return func(label string) bool {
		if spec != nil {
			if _, ok := spec.Labels[label]; ok {
				return false
			}
		}
		return isKubeletLabel(label)
	}
}
