package writeback

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
)

// metricsPathAnnotation tells a metrics-server the path of a node's resource metrics.
const metricsPathAnnotation = "metrics.k8s.io/resource-metrics-path"

// Endpoint is the address of the kubelet API that all nodes at sites have in the API.
type Endpoint struct {
	// Address is empty for none.
	Address string
	Type    corev1.NodeAddressType
	Port    int32
}

// apply replaces the address of a reported node's kubelet, which nobody in the cloud can reach.
//
// The API server takes the first address of the type that it prefers. The node's own IP addresses
// follow, for people and for pods in the host's network. Its host names are left out: the cloud
// cannot resolve them, and an API server may prefer that type.
func (e Endpoint) apply(n *corev1.Node) {
	delete(n.Annotations, metricsPathAnnotation) // it is not for the site to say
	if e.Address == "" {
		return
	}
	addresses := []corev1.NodeAddress{{Type: e.Type, Address: e.Address}}
	for _, a := range n.Status.Addresses {
		switch a.Type {
		case corev1.NodeHostName, corev1.NodeInternalDNS, corev1.NodeExternalDNS:
		default:
			addresses = append(addresses, a)
		}
	}
	n.Status.Addresses = addresses
	n.Status.DaemonEndpoints.KubeletEndpoint.Port = e.Port
	if n.Annotations == nil {
		n.Annotations = map[string]string{}
	}
	n.Annotations[metricsPathAnnotation] = v1alpha1.KubeletPathPrefix + n.Name + "/metrics/resource"
}
