package kube

import (
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

var (
	// ErrRefused marks a write that no retry can make acceptable.
	ErrRefused = errors.New("refused")
	// ErrGone marks a write to an object that was deleted or replaced by another of the same
	// name.
	ErrGone = errors.New("object is gone")
	// ErrForbidden marks a write that the API server forbids. A starting API server forbids
	// everything until its RBAC rules are loaded, so a retry can help.
	ErrForbidden = errors.New("forbidden")
)

// Classify maps an error of the API server: to ErrRefused or ErrGone if a retry cannot help,
// to ErrForbidden if it forbids the request. It returns other errors unchanged: a retry can
// help.
func Classify(err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.HasStatusCause(err, "NamespaceTerminating"), apierrors.IsNotFound(err):
		return fmt.Errorf("%w: %w", ErrGone, err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w: %w", ErrForbidden, err)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err),
		apierrors.IsMethodNotSupported(err), apierrors.IsRequestEntityTooLargeError(err), apierrors.IsUnsupportedMediaType(err):
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}

// Decode converts a cached object to its Go type. It returns ErrGone if o is nil.
func Decode(o *unstructured.Unstructured, into any) error {
	if o == nil {
		return ErrGone
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, into); err != nil {
		return fmt.Errorf("read %s %s/%s: %w", o.GetKind(), o.GetNamespace(), o.GetName(), err)
	}
	return nil
}
