package requests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/streams"
)

// maxTokenQuery bounds a request for a token, in bytes.
const maxTokenQuery = 64 << 10

var tokenResource = schema.GroupResource{Resource: "serviceaccounts/token"}

// Clients returns the clients that impersonate a node.
type Clients interface {
	As(node string) (*kube.NodeClient, error)
}

// Cache returns the last known state of an object, nil if there is none.
type Cache interface {
	Get(k kube.Key) *unstructured.Unstructured
}

// maxTokenLifetime is the longest lifetime of a token, in seconds: a longer one is shortened, as
// an API server does with --service-account-max-token-expiration. It is what an API server gives
// to a pod's usual token (--service-account-extend-token-expiration).
const maxTokenLifetime = 365 * 24 * 60 * 60

// tokenIssuer issues service account tokens to sites while impersonating the requesting node:
// the API server issues tokens to a node for its own pods only.
type tokenIssuer struct {
	clients Clients
	cache   Cache
	issued  func()
}

// Tokens returns the handler of streams.RequestToken. It calls issued for each token.
func Tokens(clients Clients, cache Cache, workers int, issued func()) Handler {
	t := &tokenIssuer{clients, cache, issued}
	return Handler{
		Workers: workers, Backlog: 1024, PerSite: 128, MaxBytes: maxTokenQuery,
		Answer: func(ctx context.Context, site string, data []byte) any { return t.answer(ctx, site, data) },
		Refuse: func(reason string) any {
			return streams.TokenAnswer{Status: statusOf(apierrors.NewTooManyRequests(reason, 1))}
		},
	}
}

func (t *tokenIssuer) answer(ctx context.Context, site string, data []byte) streams.TokenAnswer {
	var q streams.TokenQuery
	if err := json.Unmarshal(data, &q); err != nil {
		return streams.TokenAnswer{Status: badRequest(err.Error())}
	}
	if err := t.request(ctx, site, &q); err != nil {
		return streams.TokenAnswer{Status: statusOf(err)}
	}
	t.issued()
	return streams.TokenAnswer{TokenRequest: &q.TokenRequest}
}

// request completes q's TokenRequest.
func (t *tokenIssuer) request(ctx context.Context, site string, q *streams.TokenQuery) error {
	if err := checkNode(t.cache, tokenResource, q.ServiceAccount, site, q.Node); err != nil {
		return err
	}
	as, err := t.clients.As(q.Node)
	if err != nil {
		return err
	}
	if lifetime := q.TokenRequest.Spec.ExpirationSeconds; lifetime != nil && *lifetime > maxTokenLifetime {
		*lifetime = maxTokenLifetime
	}
	filled, err := as.Core.ServiceAccounts(q.Namespace).CreateToken(ctx, q.ServiceAccount, &q.TokenRequest, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	q.TokenRequest = *filled
	return nil
}

// checkNode returns an error about the named object unless the node belongs to the site. A deleted
// Site gets nothing, even while its Nodes still exist.
func checkNode(cache Cache, gr schema.GroupResource, name, site, node string) error {
	if cache.Get(kube.SiteKey(site)) == nil {
		return apierrors.NewForbidden(gr, name, fmt.Errorf("site %s does not exist", site))
	}
	o := cache.Get(kube.CoreKey("nodes", "", node))
	if o == nil || o.GetLabels()[v1alpha1.SiteLabel] != site {
		return apierrors.NewForbidden(gr, name, fmt.Errorf("node %q does not belong to site %s", node, site))
	}
	return nil
}

func badRequest(reason string) *metav1.Status { return statusOf(apierrors.NewBadRequest(reason)) }

// statusOf returns an error as an API server would answer it: as ServiceUnavailable if it is
// not an error of the API server.
func statusOf(err error) *metav1.Status {
	var api apierrors.APIStatus
	if errors.As(err, &api) {
		s := api.Status()
		return &s
	}
	return &metav1.Status{
		Status: metav1.StatusFailure, Reason: metav1.StatusReasonServiceUnavailable, Code: http.StatusServiceUnavailable, Message: err.Error(),
	}
}
