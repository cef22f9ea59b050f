package writeback

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The address of the bridge is the one that the API server takes, and a site cannot choose the path
// of its metrics, which would be another node's.
func TestEndpointOfKubelets(t *testing.T) {
	t.Parallel()
	reported := func() *corev1.Node {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "plant-a-1", Annotations: map[string]string{metricsPathAnnotation: "/nodes/plant-b-1/metrics/resource"}},
			Status: corev1.NodeStatus{
				Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.1.0.1"}, {Type: corev1.NodeHostName, Address: "plant-a-1"}},
				DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: 10250}},
			},
		}
	}
	n := reported()
	Endpoint{}.apply(n)
	if _, ok := n.Annotations[metricsPathAnnotation]; ok || len(n.Status.Addresses) != 2 || n.Status.DaemonEndpoints.KubeletEndpoint.Port != 10250 {
		t.Errorf("without a kubelet API: %v %+v", n.Annotations, n.Status)
	}
	for _, e := range []Endpoint{{"10.96.0.9", corev1.NodeInternalIP, 443}, {"bridge.example", corev1.NodeHostName, 443}} {
		n := reported()
		e.apply(n)
		want := []corev1.NodeAddress{{Type: e.Type, Address: e.Address}, {Type: corev1.NodeInternalIP, Address: "10.1.0.1"}}
		if !slices.Equal(n.Status.Addresses, want) || n.Status.DaemonEndpoints.KubeletEndpoint.Port != 443 {
			t.Errorf("%+v: addresses %v, port %d", e, n.Status.Addresses, n.Status.DaemonEndpoints.KubeletEndpoint.Port)
		}
		if got := n.Annotations[metricsPathAnnotation]; got != "/nodes/plant-a-1/metrics/resource" {
			t.Errorf("%+v: path of the metrics %q", e, got)
		}
	}
}
