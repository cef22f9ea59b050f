package nodeapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/leaf/nodeapi/codec"
	"github.com/petiole-io/petiole/leaf/nodeapi/identity"
	"github.com/petiole-io/petiole/streams"
)

const (
	// tokenTimeout is the timeout of a request to the bridge. Without a link NATS answers at
	// once that there are no responders; the timeout is for a link that hangs.
	tokenTimeout = 5 * time.Second
	// tokenTimeoutCached is the timeout if there is a cached token to fall back on.
	tokenTimeoutCached = 2 * time.Second
	// cachedTokenLife is the lifetime with which a cached token is served. The token itself
	// is valid for about a year; the kubelet asks again when a fifth of this is left.
	cachedTokenLife = time.Hour
)

// Requester sends a request to the bridge and waits for the answer. *nats.Conn implements it.
type Requester interface {
	RequestWithContext(ctx context.Context, subject string, data []byte) (*nats.Msg, error)
}

var serviceAccounts = schema.GroupResource{Resource: "serviceaccounts"}

var tokenKind = schema.GroupVersionKind{Group: authenticationv1.GroupName, Version: "v1", Kind: "TokenRequest"}

// errNoAnswer reports that the cloud could not be reached, or could not answer now.
var errNoAnswer = errors.New("no answer from the cloud")

// createToken handles a kubelet's request for a service account token: it gets the token from
// the cloud, or from the cache while the cloud is unreachable.
func (a *API) createToken(w http.ResponseWriter, q *request) error {
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
	answer, err := a.token(q.Context(), id, req)
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

func (a *API) token(ctx context.Context, id identity.TokenID, req *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	stored, err := a.tokens.Get(id)
	if err != nil {
		a.log.Warn("cached token is unreadable", zap.String("pod_uid", id.PodUID), zap.Error(err))
	}
	wait := tokenTimeout
	if stored != nil {
		wait = tokenTimeoutCached
	}
	answer, err := a.requestToken(ctx, id, req, wait)
	switch {
	case err == nil:
		if err := a.tokens.Put(id, answer); err != nil {
			// The pod gets its token; it is only missing after a restart without a link.
			a.log.Error("cache token", zap.String("pod_uid", id.PodUID), zap.Error(err))
		}
		return answer, nil
	case !errors.Is(err, errNoAnswer):
		return nil, err
	case stored == nil:
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf(
			"token of service account %s/%s: none is cached at this site and %v", id.Namespace, id.ServiceAccount, err))
	}
	life := max(cachedTokenLife, time.Duration(id.Seconds)*time.Second)
	stored.Status.ExpirationTimestamp = metav1.NewTime(time.Now().Add(life))
	return stored, nil
}

// requestToken requests a token from the bridge. errNoAnswer means that a cached token may be
// served; every other error is one of the API server.
func (a *API) requestToken(ctx context.Context, id identity.TokenID, req *authenticationv1.TokenRequest, wait time.Duration) (*authenticationv1.TokenRequest, error) {
	query, err := json.Marshal(streams.TokenQuery{
		Node: a.cfg.Node, Namespace: id.Namespace, ServiceAccount: id.ServiceAccount, TokenRequest: *req,
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	msg, err := a.requester().RequestWithContext(ctx, streams.RequestSubject(a.cfg.Site, streams.RequestToken), query)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	var answer streams.TokenAnswer
	if err := json.Unmarshal(msg.Data, &answer); err != nil {
		return nil, fmt.Errorf("%w: decode it: %w", errNoAnswer, err)
	}
	switch s := answer.Status; {
	case s != nil && (s.Code >= 500 || s.Code == http.StatusTooManyRequests || s.Code == 0):
		return nil, fmt.Errorf("%w: %s", errNoAnswer, s.Message)
	case s != nil:
		return nil, &apierrors.StatusError{ErrStatus: *s}
	case answer.TokenRequest == nil || answer.TokenRequest.Status.Token == "":
		return nil, fmt.Errorf("%w: it has no token", errNoAnswer)
	}
	return answer.TokenRequest, nil
}

func (a *API) requester() Requester {
	if a.cfg.Requester != nil {
		return a.cfg.Requester
	}
	return a.cfg.JS.Conn()
}
