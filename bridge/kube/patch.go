package kube

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/jsonmergepatch"
)

// MergePatch returns the JSON merge patch (RFC 7386) from one document to another.
func MergePatch(from, to []byte) ([]byte, error) {
	p, err := jsonmergepatch.CreateThreeWayJSONMergePatch(from, to, from)
	if err != nil {
		return nil, fmt.Errorf("create merge patch: %w", err)
	}
	return p, nil
}

// MergePatchOf returns the merge patch between two values, and whether they differ.
func MergePatchOf(from, to any) (patch []byte, differs bool, err error) {
	f, err := json.Marshal(from)
	if err != nil {
		return nil, false, fmt.Errorf("encode: %w", err)
	}
	t, err := json.Marshal(to)
	if err != nil {
		return nil, false, fmt.Errorf("encode: %w", err)
	}
	if patch, err = MergePatch(f, t); err != nil {
		return nil, false, err
	}
	return patch, !bytes.Equal(patch, []byte("{}")), nil
}

// OnlyMetadata reports whether a patch contains nothing but preconditions.
func OnlyMetadata(patch []byte) bool {
	var p map[string]json.RawMessage
	if err := json.Unmarshal(patch, &p); err != nil {
		return false
	}
	delete(p, "metadata")
	return len(p) == 0
}

// Preconditions returns the metadata that makes the API server reject a patch if the object
// was replaced or changed.
func Preconditions(uid types.UID, version string) map[string]any {
	return map[string]any{"uid": uid, "resourceVersion": version}
}

// WithPreconditions adds preconditions to a merge patch.
func WithPreconditions(patch []byte, uid types.UID, version string) ([]byte, error) {
	var p map[string]any
	if err := json.Unmarshal(patch, &p); err != nil {
		return nil, fmt.Errorf("read patch: %w", err)
	}
	meta, _ := p["metadata"].(map[string]any)
	if meta == nil {
		meta = map[string]any{}
		p["metadata"] = meta
	}
	maps.Copy(meta, Preconditions(uid, version))
	return json.Marshal(p)
}
