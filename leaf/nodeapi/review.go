package nodeapi

import (
	"net/http"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/petiole-io/petiole/leaf/nodeapi/codec"
)

// review answers the TokenReviews and SubjectAccessReviews by which a kubelet authenticates
// and authorizes its own clients: the holder of this node's token is the node and may do
// everything on its kubelet; all others are rejected.
func (h *handler) review(w http.ResponseWriter, q *request) error {
	d, err := codec.ReadObject(q.Request, q.resource.GVK())
	if err != nil {
		return err
	}
	obj, err := codec.Typed(q.resource.GVK(), d.Encode())
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	switch r := obj.(type) {
	case *authenticationv1.TokenReview:
		r.Status = authenticationv1.TokenReviewStatus{Error: "the token is not the node's token of this site's node API"}
		if h.isNodeToken(strings.TrimSpace(r.Spec.Token)) {
			r.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{
				Username: h.user(), Groups: []string{"system:nodes", "system:authenticated"},
			}}
		}
		// The answer need not repeat the token.
		r.Spec.Token = ""
	case *authorizationv1.SubjectAccessReview:
		r.Status = authorizationv1.SubjectAccessReviewStatus{Allowed: r.Spec.User == h.user()}
		if !r.Status.Allowed {
			r.Status.Reason = "only " + h.user() + " is allowed here"
		}
	default:
		return apierrors.NewMethodNotSupported(q.resource.GroupResource(), q.Method)
	}
	return codec.WriteTyped(w, http.StatusCreated, q.out, obj)
}
