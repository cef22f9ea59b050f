package codec

import (
	"fmt"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// applyPatch returns the object current with a patch applied. It changes neither. It returns
// an error for the client if the patch is malformed, does not apply, or is a strategic merge
// patch of a type that the scheme does not know.
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
