package writeback

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	nodeutil "k8s.io/component-helpers/node/util"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/bounds"
	"github.com/petiole-io/petiole/bridge/kube"
)

// nodeWriter registers nodes and writes reports about them.
type nodeWriter struct{ Config }

// petiolePrefix is the prefix of labels, annotations and conditions that a site cannot set.
const petiolePrefix = "petiole.dev/"

// write registers a node, or writes its reported status.
func (w *nodeWriter) write(ctx context.Context, r Report) error {
	if r.Ref.Name != r.Ref.Node {
		return fmt.Errorf("%w: node %s reports node %s", kube.ErrRefused, r.Ref.Node, r.Ref.Name)
	}
	var reported corev1.Node
	if err := json.Unmarshal(r.Object, &reported); err != nil {
		return fmt.Errorf("%w: %w", kube.ErrRefused, err)
	}
	if err := w.checkSize(r, "status", reported.Status.Size(), bounds.MaxNodeStatusBytes); err != nil {
		return err
	}
	w.Kubelets.apply(&reported)
	var current corev1.Node
	o := w.Cache.Get(kube.CoreKey("nodes", "", r.Ref.Name))
	switch {
	case !w.Sites.SiteExists(r.Site):
		return fmt.Errorf("%w: site %s", kube.ErrGone, r.Site)
	case o == nil && !r.New && !w.nodeAlive(r):
		// Deleted in the API: it registers again once it is alive.
		return fmt.Errorf("%w: %s was deleted", ErrNodeNotAlive, r.Ref.Name)
	case o == nil:
		if err := w.claim(ctx, r.Site, r.Ref.Name); err != nil {
			return err
		}
		created, err := w.register(ctx, r.Site, &reported)
		if err != nil {
			return err
		}
		current = *created
	default:
		if err := kube.Decode(o, &current); err != nil {
			return err
		}
	}
	if owner := current.Labels[v1alpha1.SiteLabel]; owner != r.Site {
		return fmt.Errorf("%w: node %s belongs to site %q, not to %s", kube.ErrRefused, r.Ref.Name, owner, r.Site)
	}
	if err := w.restore(ctx, r.Site, &current); err != nil {
		return err
	}
	spec := w.Names.Spec(r.Site)
	if err := w.applySpec(ctx, &current, spec); err != nil {
		return err
	}
	if err := w.patchMeta(ctx, &current, &reported, spec); err != nil {
		return err
	}
	return w.patchStatus(ctx, r, &current, &reported)
}

// register creates the node while impersonating it. The create includes the site's label, so
// that the node always has an owner, and, for a node that was deleted before, the taints that
// users had set. If the node exists already, register returns it unchanged.
func (w *nodeWriter) register(ctx context.Context, site string, reported *corev1.Node) (*corev1.Node, error) {
	as, err := w.Clients.As(reported.Name)
	if err != nil {
		return nil, err
	}
	was, err := w.Deleted.get(site, reported.Name)
	if err != nil {
		return nil, err
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: reported.Name, Labels: map[string]string{}, Annotations: map[string]string{}},
		Spec:       corev1.NodeSpec{ProviderID: reported.Spec.ProviderID, Taints: reported.Spec.Taints, Unschedulable: reported.Spec.Unschedulable},
		Status:     reported.Status,
	}
	spec := w.Names.Spec(site)
	for l, v := range reported.Labels {
		if ownedByKubelet(spec)(l) {
			node.Labels[l] = v
		}
	}
	for a, v := range reported.Annotations {
		if isKubeletAnnotation(a) {
			node.Annotations[a] = v
		}
	}
	node.Labels[v1alpha1.SiteLabel] = site
	if was != nil {
		node.Spec.Taints, node.Spec.Unschedulable = userSettings(was.Spec)
	}
	node.Spec.Taints = withTaints(node.Spec.Taints, spec)
	created, err := as.Core.Nodes().Create(ctx, node, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		created, err = as.Core.Nodes().Get(ctx, node.Name, metav1.GetOptions{})
	}
	if err != nil {
		w.Clients.Forget(reported.Name) // the node may not exist
		return nil, kube.Classify(err)
	}
	return created, nil
}

// nodeAlive reports whether the node of a report is alive.
func (w *nodeWriter) nodeAlive(r Report) bool {
	alive, _ := w.alive(r.Site, r.Ref.Node)
	return alive
}

// patchMeta sets the labels and annotations that a kubelet owns, and updates current. Others
// may have been changed in the API since the site saw them.
func (w *nodeWriter) patchMeta(ctx context.Context, current, reported *corev1.Node, spec *v1alpha1.SiteNodes) error {
	labels := changedKeys(current.Labels, reported.Labels, ownedByKubelet(spec))
	annotations := changedKeys(current.Annotations, reported.Annotations, isKubeletAnnotation)
	if len(labels) == 0 && len(annotations) == 0 {
		return nil
	}
	as, err := w.Clients.As(current.Name)
	if err != nil {
		return err
	}
	return addMetadata(ctx, as.Core.Nodes(), current, labels, annotations)
}

// addMetadata sets labels and annotations of the API's node, and updates current.
func addMetadata(ctx context.Context, nodes corev1client.NodeInterface, current *corev1.Node, labels, annotations map[string]string) error {
	meta := kube.Preconditions(current.UID, current.ResourceVersion)
	if len(labels) > 0 {
		meta["labels"] = labels
	}
	if len(annotations) > 0 {
		meta["annotations"] = annotations
	}
	patch, err := json.Marshal(map[string]any{"metadata": meta})
	if err != nil {
		return fmt.Errorf("encode metadata of node %s: %w", current.Name, err)
	}
	changed, err := nodes.Patch(ctx, current.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return kube.Classify(err)
	}
	*current = *changed
	return nil
}

func changedKeys(current, reported map[string]string, owned func(string) bool) map[string]string {
	changed := map[string]string{}
	for k, v := range reported {
		if was, ok := current[k]; owned(k) && (!ok || was != v) {
			changed[k] = v
		}
	}
	return changed
}

func isKubeletLabel(l string) bool {
	switch l {
	case corev1.LabelHostname, corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelInstanceTypeStable,
		corev1.LabelOSStable, corev1.LabelArchStable, "beta.kubernetes.io/os", "beta.kubernetes.io/arch", corev1.LabelInstanceType,
		corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion:
		return true
	}
	return false
}

func isKubeletAnnotation(a string) bool {
	return a == metricsPathAnnotation || strings.HasPrefix(a, "volumes.kubernetes.io/") || a == "csi.volume.kubernetes.io/nodeid" || a == "alpha.kubernetes.io/provided-node-ip"
}

func (w *nodeWriter) patchStatus(ctx context.Context, r Report, current, reported *corev1.Node) error {
	connected, since, _ := w.Liveness.State(r.Site)
	wanted := current.DeepCopy()
	alive, lastSeen := w.alive(r.Site, r.Ref.Name)
	switch {
	case alive:
		wanted.Status = mergeNodeStatus(current.Status, reported.Status, r.New, lastSeen)
	case w.Liveness.Dead(r.Site, r.Ref.Name, time.Now()):
		setDeadCondition(&wanted.Status, time.Now())
	}
	setSiteCondition(&wanted.Status, connected, since, time.Now())
	if !equality.Semantic.DeepEqual(current.Status, wanted.Status) {
		as, err := w.Clients.As(r.Ref.Name)
		if err != nil {
			return err
		}
		patch, err := nodeStatusPatch(current, wanted)
		if err != nil {
			return err
		}
		if _, err := as.Core.Nodes().Patch(ctx, r.Ref.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
			return kube.Classify(err)
		}
	}
	if !alive {
		return fmt.Errorf("%w: %s", ErrNodeNotAlive, r.Ref.Name)
	}
	return nil
}

// nodeStatusPatch returns the strategic merge patch between two statuses, with UID and
// resource version as preconditions. Addresses are replaced as a whole, because their merge
// key, the type, is not unique.
func nodeStatusPatch(current, wanted *corev1.Node) ([]byte, error) {
	to := wanted.Status.DeepCopy()
	to.Addresses = current.Status.Addresses
	patch, err := statusPatch("node "+current.Name, corev1.Node{Status: current.Status},
		corev1.Node{ObjectMeta: metav1.ObjectMeta{UID: current.UID, ResourceVersion: current.ResourceVersion}, Status: *to})
	if err != nil {
		return nil, err
	}
	if equality.Semantic.DeepEqual(current.Status.Addresses, wanted.Status.Addresses) {
		return patch, nil
	}
	var p struct {
		Metadata json.RawMessage `json:"metadata"`
		Status   map[string]any  `json:"status"`
	}
	if err := json.Unmarshal(patch, &p); err != nil {
		return nil, fmt.Errorf("compare status of node %s: %w", current.Name, err)
	}
	addresses := []any{}
	for _, a := range wanted.Status.Addresses {
		addresses = append(addresses, a)
	}
	if p.Status == nil {
		p.Status = map[string]any{}
	}
	p.Status["addresses"] = append(addresses, map[string]any{"$patch": "replace"})
	return json.Marshal(p)
}

// mergeNodeStatus returns the reported status with the fields that the control plane owns. A
// new report (fresh) also updates the heartbeat times. A report that is written again changes
// them only where the API differs, to the time at which the node was last seen. It is a pure
// function.
func mergeNodeStatus(current, reported corev1.NodeStatus, fresh bool, lastSeen time.Time) corev1.NodeStatus {
	merged := *reported.DeepCopy()
	merged.VolumesAttached = current.VolumesAttached
	merged.Conditions = nil
	have := map[corev1.NodeConditionType]corev1.NodeCondition{}
	for _, c := range current.Conditions {
		have[c.Type] = c
	}
	reportedTypes := map[corev1.NodeConditionType]bool{}
	for _, c := range reported.Conditions {
		was, ok := have[c.Type]
		cloud := strings.HasPrefix(string(c.Type), petiolePrefix) || c.Type == corev1.NodeNetworkUnavailable
		if cloud {
			continue
		}
		reportedTypes[c.Type] = true
		same := ok && was.Status == c.Status && was.Reason == c.Reason && was.Message == c.Message
		switch {
		case same && (!fresh || !c.LastHeartbeatTime.After(was.LastHeartbeatTime.Time)):
			c = was
		case ok && !same && was.LastHeartbeatTime.After(c.LastHeartbeatTime.Time) || ok && !same && !fresh:
			c.LastHeartbeatTime = metav1.NewTime(lastSeen)
		}
		merged.Conditions = append(merged.Conditions, c)
	}
	for _, c := range current.Conditions {
		if !reportedTypes[c.Type] {
			merged.Conditions = append(merged.Conditions, c)
		}
	}
	return merged
}

// deadHeartbeat is the age of the heartbeat at which a dead node gets another one. It is below the
// grace period of the node controller, which would make a node without heartbeats Unknown.
const deadHeartbeat = 15 * time.Second

// setDeadCondition makes a node not ready whose kubelet has died while its site is connected.
// Kubernetes then evicts its pods as it does on every node that is not ready.
func setDeadCondition(s *corev1.NodeStatus, now time.Time) {
	c := corev1.NodeCondition{
		Type: corev1.NodeReady, Status: corev1.ConditionFalse, Reason: "KubeletNotAlive",
		Message:           "the node's kubelet does not renew its lease, while its site is connected; see the condition Healthy of the Site",
		LastHeartbeatTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now),
	}
	i, was := nodeutil.GetNodeCondition(s, corev1.NodeReady)
	switch {
	case was == nil:
		s.Conditions = append(s.Conditions, c)
		return
	case was.Status == c.Status && was.Reason == c.Reason && now.Sub(was.LastHeartbeatTime.Time) < deadHeartbeat:
		return
	case was.Status == c.Status:
		c.LastTransitionTime = was.LastTransitionTime
	}
	s.Conditions[i] = c
}

// setSiteCondition sets the condition that reports whether the site is connected.
func setSiteCondition(s *corev1.NodeStatus, connected bool, since, now time.Time) {
	c := corev1.NodeCondition{
		Type: v1alpha1.SiteConnectedCondition, Status: corev1.ConditionTrue, Reason: "SiteHeard", Message: "the site's leaf sends heartbeats",
		LastHeartbeatTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(since),
	}
	if !connected {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, "SiteSilent", "no heartbeat received from the site's leaf; its pods keep running"
	}
	i, was := nodeutil.GetNodeCondition(s, v1alpha1.SiteConnectedCondition)
	switch {
	case was == nil:
		s.Conditions = append(s.Conditions, c)
	case was.Status != c.Status:
		s.Conditions[i] = c
	}
}
