package writeback

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/bounds"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/streams/ownership"
)

// podWriter writes reports about pods.
type podWriter struct {
	Config
	mirrors *mirrorPods
}

// writeStatus works like the kubelet's status manager: it sends a strategic merge patch of
// the status with the pod's UID and, in addition, its resource version.
func (w *podWriter) writeStatus(ctx context.Context, r Report) error {
	current, err := w.pod(r)
	if err != nil {
		return err
	}
	if alive, _ := w.alive(r.Site, r.Ref.Node); !alive {
		return fmt.Errorf("%w: %s", ErrNodeNotAlive, r.Ref.Node)
	}
	var reported corev1.Pod
	if err := json.Unmarshal(r.Object, &reported); err != nil {
		return fmt.Errorf("%w: %w", kube.ErrRefused, err)
	}
	if err := w.checkSize(r, "status", reported.Status.Size(), bounds.MaxPodStatusBytes); err != nil {
		return err
	}
	w.dropForeignIPs(r, &reported.Status)
	patch, err := podStatusPatch(current, reported.Status)
	if err != nil || patch == nil {
		return err
	}
	as, err := w.Clients.As(r.Ref.Node)
	if err != nil {
		return err
	}
	_, err = as.Core.Pods(r.Ref.Namespace).Patch(ctx, r.Ref.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return kube.Classify(err)
}

// dropForeignIPs removes the addresses of a pod that are in none of the ranges of the Site's spec
// and are none of the node's.
func (w *podWriter) dropForeignIPs(r Report, status *corev1.PodStatus) {
	spec := w.Names.Spec(r.Site)
	if spec == nil || len(spec.PodCIDRs) == 0 {
		return
	}
	var node corev1.Node
	if err := kube.Decode(w.Cache.Get(kube.CoreKey("nodes", "", r.Ref.Node)), &node); err != nil {
		return // the report is about to be refused
	}
	if dropped := keepAddresses(status, spec.PodCIDRs, node.Status.Addresses); len(dropped) > 0 {
		w.Problems.Add(r.Site, v1alpha1.ConditionWithinLimits, v1alpha1.ReasonPodAddress, r.Ref.Namespace+"/"+r.Ref.Name,
			fmt.Sprintf("pod %s/%s: the address %s is not in spec.nodes.podCIDRs", r.Ref.Namespace, r.Ref.Name, strings.Join(dropped, ", ")))
	}
}

// keepAddresses removes the pod addresses that are in none of the ranges and are none of the
// node's, and returns them. It is a pure function.
func keepAddresses(status *corev1.PodStatus, ranges []string, node []corev1.NodeAddress) (dropped []string) {
	ok := func(address string) bool {
		ip, err := netip.ParseAddr(address)
		if err != nil {
			return false
		}
		if slices.ContainsFunc(node, func(a corev1.NodeAddress) bool { return a.Address == address }) {
			return true
		}
		return slices.ContainsFunc(ranges, func(r string) bool {
			p, err := netip.ParsePrefix(r)
			return err == nil && p.Contains(ip)
		})
	}
	status.PodIPs = slices.DeleteFunc(status.PodIPs, func(p corev1.PodIP) bool {
		if ok(p.IP) {
			return false
		}
		dropped = append(dropped, p.IP)
		return true
	})
	switch {
	case status.PodIP == "" || ok(status.PodIP):
	case len(status.PodIPs) > 0:
		status.PodIP = status.PodIPs[0].IP
	default:
		status.PodIP = ""
	}
	return dropped
}

// pod returns the API's pod, or an error if it is not the reported one.
func (w *podWriter) pod(r Report) (*corev1.Pod, error) {
	var pod corev1.Pod
	if err := kube.Decode(w.Cache.Get(kube.KeyOf(r.Ref)), &pod); err != nil {
		return nil, err
	}
	switch {
	case r.UID == "":
		return nil, fmt.Errorf("%w: report about %s has no UID", kube.ErrRefused, r.Ref)
	case string(pod.UID) != r.UID:
		return nil, fmt.Errorf("%w: %s has UID %s, reported is %s", kube.ErrGone, r.Ref, pod.UID, r.UID)
	case pod.Spec.NodeName != r.Ref.Node:
		return nil, fmt.Errorf("%w: %s is bound to node %q, reported by %s", kube.ErrRefused, r.Ref, pod.Spec.NodeName, r.Ref.Node)
	}
	return &pod, nil
}

// podStatusPatch returns the patch that gives the API's pod the reported status. It returns
// nil if nothing changes, or if the pod would leave a terminal phase. It is a pure function.
func podStatusPatch(current *corev1.Pod, reported corev1.PodStatus) ([]byte, error) {
	if ownership.Ended(current.Status.Phase) && !ownership.Ended(reported.Phase) {
		return nil, nil
	}
	merged := *reported.DeepCopy()
	merged.Conditions = mergePodConditions(current.Status.Conditions, reported)
	// The control plane owns these fields.
	merged.NominatedNodeName = current.Status.NominatedNodeName
	merged.ResourceClaimStatuses = current.Status.ResourceClaimStatuses
	merged.ExtendedResourceClaimStatus = current.Status.ExtendedResourceClaimStatus
	merged.NodeAllocatableResourceClaimStatuses = current.Status.NodeAllocatableResourceClaimStatuses
	if merged.QOSClass == "" {
		merged.QOSClass = current.Status.QOSClass
	}
	if merged.StartTime == nil {
		merged.StartTime = current.Status.StartTime
	}
	if reflect.DeepEqual(merged, current.Status) {
		return nil, nil // such as after the bridge's own write
	}
	patch, err := statusPatch("pod "+current.Namespace+"/"+current.Name, corev1.Pod{Status: current.Status},
		corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: current.UID, ResourceVersion: current.ResourceVersion}, Status: merged})
	if err != nil {
		return nil, err
	}
	if kube.OnlyMetadata(patch) {
		return nil, nil
	}
	return patch, nil
}

// mergePodConditions takes the kubelet's conditions from the report and the others from the API.
func mergePodConditions(current []corev1.PodCondition, reported corev1.PodStatus) []corev1.PodCondition {
	var merged []corev1.PodCondition
	from := map[corev1.PodConditionType]bool{}
	for _, c := range reported.Conditions {
		if ownership.KubeletPodCondition(c.Type, reported.Phase) {
			from[c.Type] = true
			merged = append(merged, c)
		}
	}
	for _, c := range current {
		if !from[c.Type] && !ownership.KubeletPodCondition(c.Type, "") {
			merged = append(merged, c)
		}
	}
	return merged
}

// delete carries out a kubelet's final deletion of the pod with the reported UID. A pod
// that is not being deleted in the API comes from a restored storage: its containers have
// ended for good, and a kubelet never starts a pod of that UID again. It is deleted too, so
// that its controller creates another; a kubelet may delete any pod of its node.
func (w *podWriter) delete(ctx context.Context, r Report) error {
	pod, err := w.pod(r)
	if err != nil {
		return err
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; !mirror && pod.DeletionTimestamp == nil {
		w.Log.Warn("pod has ended at its site but is not being deleted in the API, deleting it",
			zap.String("site", r.Site), zap.Stringer("object", r.Ref), zap.String("uid", r.UID))
	}
	as, err := w.Clients.As(r.Ref.Node)
	if err != nil {
		return err
	}
	grace, uid := int64(0), types.UID(r.UID)
	err = as.Core.Pods(r.Ref.Namespace).Delete(ctx, r.Ref.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &grace, Preconditions: &metav1.Preconditions{UID: &uid},
	})
	if apierrors.IsConflict(err) {
		return fmt.Errorf("%w: %w", kube.ErrGone, err)
	}
	return kube.Classify(err)
}

// createMirror creates the mirror of a static pod in the API. NodeRestriction ensures that
// it is one, and owned by its node.
func (w *podWriter) createMirror(ctx context.Context, r Report) error {
	var pod corev1.Pod
	if err := json.Unmarshal(r.Object, &pod); err != nil {
		return fmt.Errorf("%w: %w", kube.ErrRefused, err)
	}
	node := w.Cache.Get(kube.CoreKey("nodes", "", r.Ref.Node))
	if node == nil {
		return fmt.Errorf("%w: %s", ErrNodeNotRegistered, r.Ref.Node)
	}
	if pod.Name != r.Ref.Name || pod.Namespace != r.Ref.Namespace {
		return fmt.Errorf("%w: object is pod %s/%s, subject is for %s", kube.ErrRefused, pod.Namespace, pod.Name, r.Ref)
	}
	if err := w.checkSize(r, "manifest", pod.Size(), bounds.MaxMirrorPodBytes); err != nil {
		return err
	}
	if !w.mirrors.admit(r.Ref.Node, kube.KeyOf(r.Ref), w.mirrorPodsOn(r.Ref.Node), time.Now()) {
		message := fmt.Sprintf("node %s has %d mirror pods, which is the limit; others are not created", r.Ref.Node, bounds.MaxMirrorPods)
		w.Problems.Add(r.Site, v1alpha1.ConditionWithinLimits, v1alpha1.ReasonTooManyMirrorPods, r.Ref.Node, message)
		return fmt.Errorf("%w: %s: %s", kube.ErrRefused, r.Ref, message)
	}
	clearServerFields(&pod.ObjectMeta)
	keepMirrorMeta(&pod.ObjectMeta)
	for i := range pod.OwnerReferences {
		if o := &pod.OwnerReferences[i]; o.Kind == "Node" && o.Name == r.Ref.Node {
			o.UID = node.GetUID() // the node may have been registered again since
		}
	}
	as, err := w.Clients.As(r.Ref.Node)
	if err != nil {
		return err
	}
	_, err = as.Core.Pods(r.Ref.Namespace).Create(ctx, &pod, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil // its status follows, with the UID as precondition
	}
	return kube.Classify(err)
}
