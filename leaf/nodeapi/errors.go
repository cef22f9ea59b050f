package nodeapi

import (
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// errCloudOnly is the reason for rejecting a write that can only be made in the cloud.
var errCloudOnly = errors.New("this is a site's node API, which serves what the cloud decided: " +
	"make the change at the cloud's API server, it arrives here over the link")

// statusOf returns the Status of an error.
func statusOf(err error) metav1.Status {
	var api apierrors.APIStatus
	if errors.As(err, &api) {
		s := api.Status()
		s.Kind, s.APIVersion = "Status", "v1"
		return s
	}
	s := apierrors.NewInternalError(err).Status()
	s.Kind, s.APIVersion = "Status", "v1"
	return s
}

func writeError(w http.ResponseWriter, err error) error {
	s := statusOf(err)
	if s.Details != nil && s.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(s.Details.RetryAfterSeconds))
	}
	code := int(s.Code)
	if code == 0 {
		code = http.StatusInternalServerError
	}
	return writeTyped(w, code, mediaJSON, &s)
}

func expired(rv string) error {
	return apierrors.NewResourceExpired(fmt.Sprintf("resource version %q is not in this node API's history: list again", rv))
}

func forbidden(gr schema.GroupResource, name string) error {
	return apierrors.NewForbidden(gr, name, errCloudOnly)
}

func notAcceptable() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable,
		Message: "only " + jsonType + " and, for built-in types, " + protoType + " are served",
	}}
}

func unsupportedMedia(have string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
		Message: fmt.Sprintf("content type %q is not supported here", have),
	}}
}

func noSuchPath() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound,
		Message: "the server could not find the requested resource",
	}}
}
