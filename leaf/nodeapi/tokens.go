package nodeapi

import (
	"errors"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/leaf/nodeapi/codec"
	"github.com/petiole-io/petiole/leaf/nodeapi/identity"
)

var serviceAccounts = schema.GroupResource{Resource: "serviceaccounts"}

var tokenKind = schema.GroupVersionKind{Group: authenticationv1.GroupName, Version: "v1", Kind: "TokenRequest"}

// createToken handles a kubelet's request for a service account token.
func (h *handler) createToken(w http.ResponseWriter, q *request) error {
	req, err := q.tokenRequest()
	if err != nil {
		return err
	}
	out := codec.Accepted(q.Header.Get("Accept"), tokenKind, false)
	id := identity.TokenID{Namespace: q.Namespace, ServiceAccount: q.Name, Audiences: req.Spec.Audiences}
	if req.Spec.ExpirationSeconds != nil {
		id.Seconds = *req.Spec.ExpirationSeconds
	}
	if ref := req.Spec.BoundObjectRef; ref == nil || ref.Kind != "Pod" || ref.UID == "" {
		return apierrors.NewForbidden(serviceAccounts, q.Name, errors.New("a node may only request tokens that are bound to one of its pods"))
	} else {
		id.PodUID = string(ref.UID)
	}
	answer, err := h.tokens.Issue(q.Context(), id, req)
	if err != nil {
		return err
	}
	answer.SetGroupVersionKind(tokenKind)
	return codec.WriteTyped(w, http.StatusCreated, out, answer)
}

func (q *request) tokenRequest() (*authenticationv1.TokenRequest, error) {
	d, err := codec.ReadObject(q.Request, tokenKind)
	if err != nil {
		return nil, err
	}
	obj, err := codec.Typed(tokenKind, d.Encode())
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return obj.(*authenticationv1.TokenRequest), nil
}
