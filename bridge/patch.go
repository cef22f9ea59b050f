package bridge

import (
	"bytes"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/util/jsonmergepatch"
)

// mergePatch is the JSON merge patch (RFC 7386) from one document to another.
func mergePatch(from, to []byte) ([]byte, error) {
	p, err := jsonmergepatch.CreateThreeWayJSONMergePatch(from, to, from)
	if err != nil {
		return nil, fmt.Errorf("make merge patch: %w", err)
	}
	return p, nil
}

// mergePatchOf is mergePatch of two values, and whether there is any difference.
func mergePatchOf(from, to any) (patch []byte, differs bool, err error) {
	f, err := json.Marshal(from)
	if err != nil {
		return nil, false, fmt.Errorf("encode: %w", err)
	}
	t, err := json.Marshal(to)
	if err != nil {
		return nil, false, fmt.Errorf("encode: %w", err)
	}
	if patch, err = mergePatch(f, t); err != nil {
		return nil, false, err
	}
	return patch, !bytes.Equal(patch, []byte("{}")), nil
}
