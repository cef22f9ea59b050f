package nodeapi

import (
	"net/http"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// review answers a kubelet that asks who its own clients are: whoever holds this
// node's token is the node and may do all on its kubelet; nobody else is known here.
func (a *API) review(w http.ResponseWriter, q *request) error {
	d, err := q.object()
	if err != nil {
		return err
	}
	obj, err := typed(q.resource.gvk(), d.encode())
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	switch r := obj.(type) {
	case *authenticationv1.TokenReview:
		r.Status = authenticationv1.TokenReviewStatus{Error: "the token is not known to this site's node API"}
		if a.ours(strings.TrimSpace(r.Spec.Token)) {
			r.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{
				Username: a.user(), Groups: []string{"system:nodes", "system:authenticated"},
			}}
		}
		// The answer goes to the one who has the token already.
		r.Spec.Token = ""
	case *authorizationv1.SubjectAccessReview:
		r.Status = authorizationv1.SubjectAccessReviewStatus{Allowed: r.Spec.User == a.user()}
		if !r.Status.Allowed {
			r.Status.Reason = "only " + a.user() + " is allowed here"
		}
	default:
		return apierrors.NewMethodNotSupported(q.resource.GroupResource(), q.Method)
	}
	return writeTyped(w, http.StatusCreated, q.out, obj)
}
