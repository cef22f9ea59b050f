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
	"github.com/petiole-io/petiole/streams/ownership"
)

// encodeObject returns the JSON of an object as a site gets it, and a hash that changes only
// when something relevant to sites changes. It is a pure function and does not modify o.
//
// The JSON is what the API serves, without managedFields and, for nodes, without the taints
// that mark a node as unreachable: by the time a site receives them it is connected again. The
// hash leaves out the resource version, the generation and the part of the status that for nodes,
// pods and devices is an echo of the site's own report (see desiredStatus). The status of a
// CustomResourceDefinition says nothing about its objects and is left out.
func encodeObject(k kube.Key, o *unstructured.Unstructured) (data []byte, hash string, err error) {
	object := maps.Clone(o.Object)
	meta := cloneMetadata(object)
	delete(meta, "managedFields")
	if k.Group == "" && k.Resource == "nodes" {
		removeLinkTaints(object)
	}
	if k.Group == kube.ExtensionsGroup {
		delete(object, "status")
	}
	if k.IsEndpointSlice() {
		removeTriggerTime(meta)
	}
	if data, err = json.Marshal(object); err != nil {
		return nil, "", fmt.Errorf("encode %s: %w", k.Ref(""), err)
	}

	delete(meta, "resourceVersion")
	delete(meta, "generation")
	if status := desiredStatus(k, object["status"]); status != nil {
		object["status"] = status
	} else {
		delete(object, "status")
	}
	counted, err := json.Marshal(object)
	if err != nil {
		return nil, "", fmt.Errorf("encode %s: %w", k.Ref(""), err)
	}
	sum := sha256.Sum256(counted)
	return data, hex.EncodeToString(sum[:16]), nil
}

// desiredStatus returns the part of a status that the control plane owns and a kubelet waits for,
// nil if there is none: the whole status of a claim (its phase becomes Bound, its devices are
// allocated), of an attachment, of a request for a certificate and of a custom resource; a pod's conditions that are not
// the kubelet's (its readiness gates) and its generated ResourceClaims; a node's attached volumes.
func desiredStatus(k kube.Key, status any) any {
	if k.IsSelected() {
		return status
	}
	fields, _ := status.(map[string]any)
	switch k.Resource {
	case "persistentvolumeclaims", "resourceclaims", "volumeattachments", "podcertificaterequests":
		return status
	case "nodes":
		return nonEmpty(pick(fields, ownership.NodeStatusFields))
	case "pods":
		desired := pick(fields, ownership.PodStatusFields)
		if c := desiredConditions(fields["conditions"]); len(c) > 0 {
			desired["conditions"] = c
		}
		return nonEmpty(desired)
	}
	return nil
}

// desiredConditions returns the conditions of a pod that the control plane owns, without their
// times. It leaves out DisruptionTarget: no kubelet waits for it, and it becomes the kubelet's
// when the pod ends.
func desiredConditions(conditions any) []any {
	all, _ := conditions.([]any)
	var desired []any
	for _, c := range all {
		fields, _ := c.(map[string]any)
		t, _ := fields["type"].(string)
		if t := corev1.PodConditionType(t); ownership.KubeletPodCondition(t, "") || t == corev1.DisruptionTarget {
			continue
		}
		desired = append(desired, pick(fields, []string{"type", "status", "reason", "message"}))
	}
	return desired
}

// pick returns the named fields that exist.
func pick(from map[string]any, fields []string) map[string]any {
	picked := map[string]any{}
	for _, f := range fields {
		if v, ok := from[f]; ok {
			picked[f] = v
		}
	}
	return picked
}

func nonEmpty(m map[string]any) any {
	if len(m) == 0 {
		return nil
	}
	return m
}

// cloneMetadata replaces an object's metadata by a shallow copy and returns the copy.
func cloneMetadata(object map[string]any) map[string]any {
	meta, _ := object["metadata"].(map[string]any)
	meta = maps.Clone(meta)
	object["metadata"] = meta
	return meta
}

// removeTriggerTime removes the time at which an endpoint changed, maybe one of another site: only a
// metric of kube-proxy depends on it.
func removeTriggerTime(meta map[string]any) {
	annotations, _ := meta["annotations"].(map[string]any)
	if _, ok := annotations[corev1.EndpointsLastChangeTriggerTime]; !ok {
		return
	}
	annotations = maps.Clone(annotations)
	delete(annotations, corev1.EndpointsLastChangeTriggerTime)
	if len(annotations) == 0 {
		delete(meta, "annotations")
		return
	}
	meta["annotations"] = annotations
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
