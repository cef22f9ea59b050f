package codec

import (
	"fmt"
	"io"
	"mime"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
)

// ReadObject decodes a request's body, which must be an object of the given kind.
func ReadObject(r *http.Request, kind schema.GroupVersionKind) (objects.Document, error) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	switch ct := mediaType(r.Header.Get("Content-Type")); ct {
	case TypeProtobuf:
		if !scheme.Recognizes(kind) {
			return nil, unsupportedMedia(ct)
		}
		if data, err = fromProto(data, kind); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	case TypeJSON, "":
	default:
		return nil, unsupportedMedia(ct)
	}
	return valid(data, kind)
}

// valid parses an object and validates it against the Go type of its kind, if it has one.
func valid(data []byte, kind schema.GroupVersionKind) (objects.Document, error) {
	d, err := objects.ParseDocument(data)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if k := d.Text("kind"); k != "" && k != kind.Kind {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the kind of the body is %s, want %s", k, kind.Kind))
	}
	if v := d.Text("apiVersion"); v != "" && v != kind.GroupVersion().String() {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the apiVersion of the body is %s, want %s", v, kind.GroupVersion()))
	}
	d.SetText("kind", kind.Kind)
	d.SetText("apiVersion", kind.GroupVersion().String())
	if scheme.Recognizes(kind) {
		if _, err := Typed(kind, data); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	}
	return d, nil
}

// ReadPatched returns the current object with the patch in a request's body applied.
func ReadPatched(r *http.Request, current *objects.Object) (objects.Document, error) {
	patch, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	kind := types.PatchType(mediaType(r.Header.Get("Content-Type")))
	patched, err := applyPatch(kind, current.Kind, current.JSON, patch)
	if err != nil {
		return nil, err
	}
	return valid(patched, current.Kind)
}

// ReadDeleteOptions returns the options of a deletion, in its query or its body.
func ReadDeleteOptions(r *http.Request) (metav1.DeleteOptions, error) {
	var opts metav1.DeleteOptions
	values := r.URL.Query()
	if err := metav1.Convert_url_Values_To_v1_DeleteOptions(&values, &opts, nil); err != nil {
		return opts, apierrors.NewBadRequest(err.Error())
	}
	data, err := io.ReadAll(r.Body)
	if err != nil || len(data) == 0 {
		return opts, err
	}
	kind := schema.GroupVersionKind{Version: "v1", Kind: "DeleteOptions"}
	if mediaType(r.Header.Get("Content-Type")) == TypeProtobuf {
		if data, err = fromProto(data, kind); err != nil {
			return opts, apierrors.NewBadRequest(err.Error())
		}
	}
	obj, err := Typed(kind, data)
	if err != nil {
		return opts, apierrors.NewBadRequest(err.Error())
	}
	return *obj.(*metav1.DeleteOptions), nil
}

func mediaType(header string) string {
	t, _, err := mime.ParseMediaType(header)
	if err != nil {
		return header
	}
	return t
}
