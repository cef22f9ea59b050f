package desired

import (
	"maps"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/petiole-io/petiole/bridge/kube"
)

// encodedFor returns the JSON of an object as a site gets it, and its hash. Of an EndpointSlice each
// site gets the endpoints on its own nodes, and those on no node: a change of another's endpoint
// costs its link nothing.
func (w *writer) encodedFor(site string, k kube.Key, o *unstructured.Unstructured) (data []byte, hash string, err error) {
	if !k.IsEndpointSlice() {
		return w.objects.encoded(k, o)
	}
	w.mu.Lock()
	local := localEndpoints(o, func(node string) bool { return w.closure.SiteOf(node) == site })
	w.mu.Unlock()
	if local == o {
		return w.objects.encoded(k, o)
	}
	return encodeObject(k, local)
}

// localEndpoints returns an EndpointSlice without the endpoints on foreign nodes, the same object if
// it has none. It does not modify o.
func localEndpoints(o *unstructured.Unstructured, isLocal func(node string) bool) *unstructured.Unstructured {
	all, _ := o.Object["endpoints"].([]any)
	kept := make([]any, 0, len(all))
	for _, e := range all {
		fields, _ := e.(map[string]any)
		if node, _ := fields["nodeName"].(string); node == "" || isLocal(node) {
			kept = append(kept, e)
		}
	}
	if len(kept) == len(all) {
		return o
	}
	object := maps.Clone(o.Object)
	object["endpoints"] = kept
	return &unstructured.Unstructured{Object: object}
}
