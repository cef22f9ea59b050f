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

func expired(rv string) error {
	return apierrors.NewResourceExpired(fmt.Sprintf("resource version %q is not in this node API's history: list again", rv))
}

func forbidden(gr schema.GroupResource, name string) error {
	return apierrors.NewForbidden(gr, name, errCloudOnly)
}

func noSuchPath() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound,
		Message: "the server could not find the requested resource",
	}}
}
