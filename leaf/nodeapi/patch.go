package nodeapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
)

// next returns the object that the request asks for: the body of a PUT, or the current object
// with the patch applied.
func (q *request) next(current *objects.Object) (objects.Document, error) {
	if q.verb == "update" {
		return q.object()
	}
	patch, err := io.ReadAll(q.Body)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	kind := types.PatchType(mediaType(q.Header.Get("Content-Type")))
	patched, err := applyPatch(kind, current.Kind, current.JSON, patch)
	if err != nil {
		return nil, err
	}
	return q.valid(patched)
}

func applyPatch(kind types.PatchType, of schema.GroupVersionKind, current, patch []byte) (out []byte, err error) {
	switch kind {
	case types.StrategicMergePatchType:
		if !scheme.Recognizes(of) {
			return nil, unsupportedMedia(string(kind))
		}
		obj, newErr := scheme.New(of)
		if newErr != nil {
			return nil, newErr
		}
		out, err = strategicpatch.StrategicMergePatch(current, patch, obj)
	case types.MergePatchType:
		out, err = jsonpatch.MergePatch(current, patch)
	case types.JSONPatchType:
		var p jsonpatch.Patch
		if p, err = jsonpatch.DecodePatch(patch); err == nil {
			out, err = p.Apply(current)
		}
	default:
		return nil, unsupportedMedia(string(kind))
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("apply patch: %v", err))
	}
	return out, nil
}

// sameJSON reports whether two values are equal, regardless of the order of keys and of the
// difference between absent and null.
func sameJSON(a, b json.RawMessage) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x, y any
	if !objects.IsEmpty(a) && utiljson.Unmarshal(a, &x) != nil || !objects.IsEmpty(b) && utiljson.Unmarshal(b, &y) != nil {
		return false
	}
	return reflect.DeepEqual(withoutNulls(x), withoutNulls(y))
}

// sameDocument reports whether two objects are equal apart from the metadata that a server
// sets.
func sameDocument(a, b objects.Document) bool {
	for k := range b {
		if _, ok := a[k]; !ok && !objects.IsEmpty(b[k]) {
			return false
		}
	}
	for k := range a {
		if k != "metadata" && !sameJSON(a[k], b[k]) {
			return false
		}
	}
	x, errX := a.Child("metadata")
	y, errY := b.Child("metadata")
	if errX != nil || errY != nil {
		return false
	}
	for _, m := range []objects.Document{x, y} {
		removeServerFields(m)
		delete(m, "uid")
		delete(m, "creationTimestamp")
	}
	return sameJSON(x.Encode(), y.Encode())
}

// withoutNulls removes nulls and empty maps.
func withoutNulls(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, item := range v {
			item = withoutNulls(item)
			if item == nil {
				delete(v, k)
				continue
			}
			v[k] = item
		}
		if len(v) == 0 {
			return nil
		}
		return v
	case []any:
		for i := range v {
			v[i] = withoutNulls(v[i])
		}
	}
	return v
}
