package desired

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/petiole-io/petiole/bridge/kube"
)

// encodeObject returns the JSON of an object as a site gets it, and a hash that changes only
// when something relevant to sites changes. It is a pure function and does not modify o.
//
// The JSON is what the API serves, without managedFields and, for nodes, without the taints
// that mark a node as unreachable: by the time a site receives them it is connected again. The
// hash leaves out the resource version, the generation and the status, which for nodes, pods
// and devices is an echo of the site's own report. The status of a claim is included, because
// the control plane sets it (the kubelet waits for the phase Bound).
func encodeObject(k kube.Key, o *unstructured.Unstructured) (data []byte, hash string, err error) {
	object := maps.Clone(o.Object)
	meta := cloneMetadata(object)
	delete(meta, "managedFields")
	if k.Group == "" && k.Resource == "nodes" {
		removeLinkTaints(object)
	}
	if data, err = json.Marshal(object); err != nil {
		return nil, "", fmt.Errorf("encode %s: %w", k.Ref(""), err)
	}

	delete(meta, "resourceVersion")
	delete(meta, "generation")
	if k.Group != "" || k.Resource != "persistentvolumeclaims" {
		delete(object, "status")
	}
	counted, err := json.Marshal(object)
	if err != nil {
		return nil, "", fmt.Errorf("encode %s: %w", k.Ref(""), err)
	}
	sum := sha256.Sum256(counted)
	return data, hex.EncodeToString(sum[:16]), nil
}

// cloneMetadata replaces an object's metadata by a shallow copy and returns the copy.
func cloneMetadata(object map[string]any) map[string]any {
	meta, _ := object["metadata"].(map[string]any)
	meta = maps.Clone(meta)
	object["metadata"] = meta
	return meta
}

func removeLinkTaints(object map[string]any) {
	spec, _ := object["spec"].(map[string]any)
	taints, _ := spec["taints"].([]any)
	if len(taints) == 0 {
		return
	}
	var kept []any
	for _, t := range taints {
		taint, _ := t.(map[string]any)
		if key := taint["key"]; key != corev1.TaintNodeUnreachable && key != corev1.TaintNodeNotReady {
			kept = append(kept, t)
		}
	}
	spec = maps.Clone(spec)
	if len(kept) == 0 {
		delete(spec, "taints")
	} else {
		spec["taints"] = kept
	}
	object["spec"] = spec
}
