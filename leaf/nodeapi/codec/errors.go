package codec

import (
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// StatusOf returns the Status of an error.
func StatusOf(err error) metav1.Status {
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

// WriteError writes an error as a Status.
func WriteError(w http.ResponseWriter, err error) error {
	s := StatusOf(err)
	if s.Details != nil && s.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(s.Details.RetryAfterSeconds))
	}
	code := int(s.Code)
	if code == 0 {
		code = http.StatusInternalServerError
	}
	return WriteTyped(w, code, JSON, &s)
}

// NotAcceptable returns the error of a request whose Accept header names no encoding that is
// served.
func NotAcceptable() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable,
		Message: "only " + TypeJSON + " and, for built-in types, " + TypeProtobuf + " are served",
	}}
}

// unsupportedMedia returns the error of a body in a content type that is not supported.
func unsupportedMedia(have string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
		Message: fmt.Sprintf("content type %q is not supported here", have),
	}}
}
