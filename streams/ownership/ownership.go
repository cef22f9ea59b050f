// Package ownership tells which parts of a status a site owns and which the control plane owns.
// The owner's value is the state; the other side only has a copy of it. What the site owns is
// reported state: the bridge writes it to the API server and leaves the rest as it is. What the
// control plane owns is desired state: it is delivered to the site, whose node API merges it with
// the kubelet's status.
//
// Bridge and leaf ask it, so that both divide a status in the same way. It is pure.
package ownership

import corev1 "k8s.io/api/core/v1"

// PodStatusFields are the fields of a pod's status that the control plane owns and a kubelet
// reads: the names of the ResourceClaims that were generated for the pod.
var PodStatusFields = []string{"resourceClaimStatuses", "extendedResourceClaimStatus", "nodeAllocatableResourceClaimStatuses"}

// NodeStatusFields are the fields of a node's status that the control plane owns and a kubelet
// reads: the volumes that the attach/detach controller has attached.
var NodeStatusFields = []string{"volumesAttached"}

// podConditions are the conditions of a pod that its kubelet owns, PodConditionByKubelet in
// pkg/kubelet/types of Kubernetes.
var podConditions = map[corev1.PodConditionType]bool{
	corev1.PodScheduled: true, corev1.PodReady: true, corev1.PodInitialized: true, corev1.ContainersReady: true,
	corev1.PodReadyToStartContainers: true, corev1.PodResizePending: true, corev1.PodResizeInProgress: true,
	corev1.AllContainersRestarting: true,
}

// KubeletPodCondition reports whether a kubelet owns a condition of a pod in the given phase.
// Every other condition, such as one that a readiness gate names, belongs to the control plane.
// Both set DisruptionTarget: the kubelet does when it ends the pod.
func KubeletPodCondition(t corev1.PodConditionType, phase corev1.PodPhase) bool {
	return podConditions[t] || t == corev1.DisruptionTarget && Ended(phase)
}

// Ended reports whether a phase is terminal.
func Ended(phase corev1.PodPhase) bool {
	return phase == corev1.PodSucceeded || phase == corev1.PodFailed
}
