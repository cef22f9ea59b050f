package bridge

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// body is an object's JSON as a site gets it, and the digest that tells a change from a
// repetition. It is a pure function and leaves o alone.
//
// The body is what the API serves, without managedFields, and for nodes without the
// taints by which the cloud says that it does not hear them: a site would get them only
// after they have become untrue. The digest leaves out what changes without concern to
// a site: resource version, generation, and the status, which for nodes, pods and
// devices is the site's own echo. The status of a claim is the cloud's (the kubelet
// waits for it to be Bound), so there it counts.
func encodeObject(k objectKey, o *unstructured.Unstructured) (data []byte, hash string, err error) {
	object := maps.Clone(o.Object)
	meta := cloneMetadata(object)
	delete(meta, "managedFields")
	if k.Group == "" && k.Resource == "nodes" {
		removeLinkTaints(object)
	}
	if data, err = json.Marshal(object); err != nil {
		return nil, "", fmt.Errorf("encode %s: %w", k.ref(""), err)
	}

	delete(meta, "resourceVersion")
	delete(meta, "generation")
	if k.Group != "" || k.Resource != "persistentvolumeclaims" {
		delete(object, "status")
	}
	counted, err := json.Marshal(object)
	if err != nil {
		return nil, "", fmt.Errorf("encode %s: %w", k.ref(""), err)
	}
	sum := sha256.Sum256(counted)
	return data, hex.EncodeToString(sum[:16]), nil
}

// metadataOf replaces an object's metadata by a shallow copy and returns it.
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
