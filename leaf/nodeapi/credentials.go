package nodeapi

import (
	"errors"
	"fmt"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/leaf/nodeapi/codec"
	"github.com/petiole-io/petiole/leaf/nodeapi/identity"
	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
	"github.com/petiole-io/petiole/leaf/nodeapi/tokens"
)

var serviceAccounts = schema.GroupResource{Resource: "serviceaccounts"}

var tokenKind = schema.GroupVersionKind{Group: authenticationv1.GroupName, Version: "v1", Kind: "TokenRequest"}

// credentials answers a kubelet's requests for credentials of its pods.
type credentials struct {
	node   string
	store  *objects.Store
	issuer *tokens.Issuer
}

// createToken handles a kubelet's request for a service account token.
func (c *credentials) createToken(w http.ResponseWriter, q *request) error {
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
	answer, err := c.issuer.Issue(q.Context(), id, req)
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

// createPodCertificateRequest handles a kubelet's request for a certificate of one of its pods.
// The bridge creates it at the API server, under a name that the API server chooses; it arrives
// here like every other object, and again when it has been signed. While the cloud cannot be
// reached the kubelet gets an error and tries again, as it does without its API server.
func (c *credentials) createPodCertificateRequest(w http.ResponseWriter, q *request) error {
	d, err := codec.ReadObject(q.Request, q.resource.GVK())
	if err != nil {
		return err
	}
	obj, err := codec.Typed(q.resource.GVK(), d.Encode())
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	request := obj.(*certificatesv1.PodCertificateRequest)
	pod := c.store.Get(objects.Pods, objects.Key{Namespace: q.Namespace, Name: request.Spec.PodName})
	if pod == nil || pod.UID != string(request.Spec.PodUID) || string(request.Spec.NodeName) != c.node {
		return apierrors.NewForbidden(q.resource.GroupResource(), request.Spec.PodName, fmt.Errorf("pod %s with UID %q does not run on node %s", request.Spec.PodName, request.Spec.PodUID, c.node))
	}
	created, err := c.issuer.RequestCertificate(q.Context(), q.Namespace, request.Spec)
	if err != nil {
		return err
	}
	created.SetGroupVersionKind(q.resource.GVK())
	// Versions of the API server mean nothing here.
	created.ResourceVersion = ""
	return codec.WriteTyped(w, http.StatusCreated, q.out, created)
}
