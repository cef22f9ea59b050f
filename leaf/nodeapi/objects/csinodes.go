package objects

import (
	"encoding/json"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ownedByNode adds the present node to the owners of its CSINode. The UID of the node differs
// from the one that the kubelet wrote after the cloud has assigned another one, or after the
// node was deleted in the cloud and came back. The previous owner is kept: a running kubelet
// knows its node by the UID that it had when the kubelet started, and deletes a CSINode
// without an owner of that UID (ensureNodeOwnsCSINode of pkg/volume/csi/nodeinfomanager).
func ownedByNode(d Document, node, uid string) error {
	meta, err := d.Child("metadata")
	if err != nil || uid == "" {
		return err
	}
	var owners, others []metav1.OwnerReference
	if !IsEmpty(meta["ownerReferences"]) {
		if err := json.Unmarshal(meta["ownerReferences"], &owners); err != nil {
			return fmt.Errorf("metadata.ownerReferences: %w", err)
		}
	}
	isNode := func(o metav1.OwnerReference) bool { return o.Kind == "Node" && o.Name == node }
	last := -1
	for i, o := range owners {
		if isNode(o) {
			if o.UID == types.UID(uid) {
				return nil
			}
			last = i
		}
	}
	for i, o := range owners {
		if !isNode(o) || i == last {
			others = append(others, o)
		}
	}
	owners = append(slices.Clip(others), metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: node, UID: types.UID(uid)})
	if meta["ownerReferences"], err = json.Marshal(owners); err != nil {
		return fmt.Errorf("metadata.ownerReferences: %w", err)
	}
	d["metadata"] = meta.Encode()
	return nil
}
