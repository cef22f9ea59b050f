package site

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/petiole-io/petiole/bridge/kube"
)

// unobserved counts the pods and devices of the nodes whose status in the API belongs to an
// older version of them.
func (c *Controller) unobserved(nodes []string) int {
	n := 0
	for _, k := range c.cfg.Sites.BoundTo(nodes) {
		o := c.cfg.Cache.Get(k)
		if o == nil {
			continue
		}
		if k.Group == kube.DeviceGroup {
			status := c.cfg.Cache.Get(kube.Key{Group: kube.DeviceGroup, Resource: "devicestatuses", Namespace: k.Namespace, Name: k.Name})
			if !deviceObserved(o, status) {
				n++
			}
		} else if !podObserved(o) {
			n++
		}
	}
	return n
}

// podObserved reports whether the node has seen the pod's newest generation (KEP-5067). It
// returns true for pods without generation and for mirror pods, which belong to their node.
func podObserved(pod *unstructured.Unstructured) bool {
	if pod.GetGeneration() == 0 || pod.GetAnnotations()[corev1.MirrorPodAnnotationKey] != "" {
		return true
	}
	seen, _, err := unstructured.NestedInt64(pod.Object, "status", "observedGeneration")
	return err == nil && seen >= pod.GetGeneration()
}

// deviceObserved reports whether the site has reported a final result for each desired value
// of the device. A device without desired values is observed once it has a status.
func deviceObserved(device, status *unstructured.Unstructured) bool {
	if status == nil {
		return false
	}
	results := map[string]map[string]any{}
	for _, t := range objectsAt(status, "status", "twins") {
		if name, ok := t["propertyName"].(string); ok {
			if observed, ok := t["observedDesired"].(map[string]any); ok {
				results[name] = observed
			}
		}
	}
	for _, p := range objectsAt(device, "spec", "properties") {
		desired, _ := p["desired"].(map[string]any)
		name, _ := p["name"].(string)
		value, _ := desired["value"].(string)
		if value == "" {
			continue // the property has no desired value
		}
		observed := results[name]
		if observed == nil || observed["value"] != value || !isFinal(observed) {
			return false
		}
	}
	return true
}

// isFinal reports whether the result of a desired value is final.
func isFinal(observed map[string]any) bool {
	m, _ := observed["metadata"].(map[string]any)
	return m["ack"] != "pending"
}

// objectsAt returns the objects in the list at a path.
func objectsAt(o *unstructured.Unstructured, path ...string) []map[string]any {
	list, _, err := unstructured.NestedFieldNoCopy(o.Object, path...)
	items, ok := list.([]any)
	if err != nil || !ok {
		return nil
	}
	var out []map[string]any
	for _, i := range items {
		if m, ok := i.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}
