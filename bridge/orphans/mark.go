package orphans

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	nodeutil "k8s.io/component-helpers/node/util"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/kube"
)

const (
	// ReasonSiteDeleted is the reason of the conditions of a Node whose Site was deleted, and of
	// the Event about it.
	ReasonSiteDeleted = "SiteDeleted"
	// EventDeletingNode is the reason of the Event about a Node that is deleted with its Site, the
	// one that cloud providers use.
	EventDeletingNode = "DeletingNode"
	// reasonSilent is the reason of a Node's conditions from the time that its Site exists again
	// until the Site's leaf is heard.
	reasonSilent = "SiteSilent"
)

// reported reports whether a site has ever written the status of a Node: only the bridge sets
// this condition, for the site that owns the Node.
func reported(node *corev1.Node) bool {
	_, c := nodeutil.GetNodeCondition(&node.Status, v1alpha1.SiteConnectedCondition)
	return c != nil
}

func taintIndex(node *corev1.Node) int {
	return slices.IndexFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == v1alpha1.SiteDeletedTaint })
}

// conditionsMarked reports whether a Node has the conditions of one whose Site was deleted.
func conditionsMarked(node *corev1.Node) bool {
	_, c := nodeutil.GetNodeCondition(&node.Status, v1alpha1.SiteConnectedCondition)
	return c != nil && c.Reason == ReasonSiteDeleted
}

// mark keeps new pods away from a Node, writes an Event, and makes the Node not ready. marked is
// true if nothing of that was left to do.
func (c *Controller) mark(ctx context.Context, node *corev1.Node, site string) (marked bool, err error) {
	if taintIndex(node) < 0 {
		now := metav1.Now()
		taint := corev1.Taint{Key: v1alpha1.SiteDeletedTaint, Effect: corev1.TaintEffectNoSchedule, TimeAdded: &now}
		return false, c.setTaints(ctx, node, append(slices.Clone(node.Spec.Taints), taint))
	}
	if conditionsMarked(node) {
		return true, nil
	}
	message := fmt.Sprintf("site %s was deleted", site)
	next := fmt.Sprintf("the node and its pods are deleted in %v, unless a site of that name exists by then", c.cfg.Delay)
	if c.cfg.Delay == 0 {
		next = "delete the node to end its pods"
	}
	if err := c.event(ctx, node, corev1.EventTypeWarning, ReasonSiteDeleted, message+": "+next); err != nil {
		return false, err
	}
	return false, c.setConditions(ctx, node, corev1.ConditionFalse, ReasonSiteDeleted, message)
}

// unmark gives a Node whose Site exists again what it had. It is not ready until its site
// is heard.
func (c *Controller) unmark(ctx context.Context, node *corev1.Node) error {
	if conditionsMarked(node) {
		return c.setConditions(ctx, node, corev1.ConditionUnknown, reasonSilent, "no heartbeat received since the site was created again")
	}
	if i := taintIndex(node); i >= 0 {
		return c.setTaints(ctx, node, slices.Delete(slices.Clone(node.Spec.Taints), i, i+1))
	}
	return nil
}

func (c *Controller) setTaints(ctx context.Context, node *corev1.Node, taints []corev1.Taint) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": kube.Preconditions(node.UID, node.ResourceVersion), "spec": map[string]any{"taints": taints},
	})
	if err != nil {
		return fmt.Errorf("encode taints of node %s: %w", node.Name, err)
	}
	if _, err = c.cfg.Clients.Own.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("set taints of node %s: %w", node.Name, err)
	}
	return nil
}

// setConditions writes that a Node is not ready and its site not connected, in the Node's name.
func (c *Controller) setConditions(ctx context.Context, node *corev1.Node, ready corev1.ConditionStatus, reason, message string) error {
	as, err := c.cfg.Clients.As(node.Name)
	if err != nil {
		return err
	}
	now := metav1.Now()
	condition := func(t corev1.NodeConditionType, status corev1.ConditionStatus) corev1.NodeCondition {
		changed := corev1.NodeCondition{Type: t, Status: status, Reason: reason, Message: message, LastHeartbeatTime: now, LastTransitionTime: now}
		if _, was := nodeutil.GetNodeCondition(&node.Status, t); was != nil && was.Status == status {
			changed.LastTransitionTime = was.LastTransitionTime
		}
		return changed
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": kube.Preconditions(node.UID, node.ResourceVersion),
		"status": map[string]any{"conditions": []corev1.NodeCondition{
			condition(corev1.NodeReady, ready), condition(v1alpha1.SiteConnectedCondition, corev1.ConditionFalse),
		}},
	})
	if err != nil {
		return fmt.Errorf("encode conditions of node %s: %w", node.Name, err)
	}
	if _, err = as.Core.Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("set conditions of node %s: %w", node.Name, err)
	}
	return nil
}

// event writes an Event about a Node that is marked. It has the same name when it is tried again.
func (c *Controller) event(ctx context.Context, node *corev1.Node, kind, reason, message string) error {
	at := metav1.NewTime(time.Now())
	since := node.CreationTimestamp
	if i := taintIndex(node); i >= 0 && node.Spec.Taints[i].TimeAdded != nil {
		since = *node.Spec.Taints[i].TimeAdded
	}
	_, err := c.cfg.Clients.Own.CoreV1().Events(metav1.NamespaceDefault).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: fmt.Sprintf("%s.%x.%s", node.Name, since.UnixNano(), strings.ToLower(reason)), Namespace: metav1.NamespaceDefault},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion},
		Type:           kind, Reason: reason, Message: message, Count: 1, FirstTimestamp: at, LastTimestamp: at,
		Source: corev1.EventSource{Component: "petiole-bridge", Host: c.cfg.Identity}, ReportingController: "petiole.dev/bridge", ReportingInstance: c.cfg.Identity,
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("write event %s about node %s: %w", reason, node.Name, err)
	}
	return nil
}
