package kube

import (
	"errors"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	pods := schema.GroupResource{Resource: "pods"}
	for _, test := range []struct{ err, want error }{
		{nil, nil},
		{apierrors.NewNotFound(pods, "p"), ErrGone},
		{apierrors.NewForbidden(pods, "p", errors.New("RBAC")), ErrForbidden},
		{apierrors.NewInvalid(schema.GroupKind{Kind: "Pod"}, "p", nil), ErrRefused},
		{apierrors.NewBadRequest("no JSON"), ErrRefused},
		{apierrors.NewMethodNotSupported(pods, "create"), ErrRefused},
		{apierrors.NewRequestEntityTooLargeError("too large"), ErrRefused},
	} {
		if got := Classify(test.err); !errors.Is(got, test.want) || !errors.Is(got, test.err) {
			t.Errorf("%v became %v, want %v", test.err, got, test.want)
		}
	}
	for _, err := range []error{apierrors.NewConflict(pods, "p", nil), apierrors.NewTooManyRequests("later", 1), apierrors.NewServiceUnavailable("starting")} {
		if got := Classify(err); !errors.Is(err, got) {
			t.Errorf("%v became %v: a retry can help", err, got)
		}
	}
	if err := Decode(nil, nil); !errors.Is(err, ErrGone) {
		t.Errorf("no object: %v", err)
	}
}
