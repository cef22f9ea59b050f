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

	"github.com/petiole-io/petiole/streams"
)

const (
	// tokenWait bounds the question to the bridge. Without a link NATS answers at
	// once that nobody listens; the limit is for a link that hangs.
	tokenWait = 5 * time.Second
	// tokenWaitStored is the limit when there is a stored token to fall back on.
	tokenWaitStored = 2 * time.Second
	// restatedLife is the life that a stored token is presented with. The token itself
	// lives about a year; the kubelet asks again when a fifth of this is left.
	restatedLife = time.Hour
)

// Asker asks a question of the bridge and waits for the answer. *nats.Conn is one.
type Asker interface {
	RequestWithContext(ctx context.Context, subject string, data []byte) (*nats.Msg, error)
}

var tokenKind = schema.GroupVersionKind{Group: authenticationv1.GroupName, Version: "v1", Kind: "TokenRequest"}

// errNoAnswer reports that the cloud could not be asked, or could not answer now.
var errNoAnswer = errors.New("no answer from the cloud")

// createToken answers a kubelet's request for a service account token: from the
// cloud, or while that is away from the vault.
func (a *API) createToken(w http.ResponseWriter, q *request) error {
	req, err := q.tokenRequest()
	if err != nil {
		return err
	}
	out := accepted(q.Header.Get("Accept"), tokenKind, false)
	id := tokenID{Namespace: q.namespace, ServiceAccount: q.name, Audiences: req.Spec.Audiences}
	if req.Spec.ExpirationSeconds != nil {
		id.Seconds = *req.Spec.ExpirationSeconds
	}
	if ref := req.Spec.BoundObjectRef; ref == nil || ref.Kind != "Pod" || ref.UID == "" {
		return apierrors.NewForbidden(serviceAccountsGR, q.name, errors.New("a node may ask only for tokens that are bound to one of its pods"))
	} else {
		id.PodUID = string(ref.UID)
	}
	answer, err := a.token(q.Context(), id, req)
	if err != nil {
		return err
	}
	answer.SetGroupVersionKind(tokenKind)
	return writeTyped(w, http.StatusCreated, out, answer)
}

func (q *request) tokenRequest() (*authenticationv1.TokenRequest, error) {
	sub := *q
	sub.resource = builtin(tokenKind.Group, tokenKind.Version, "serviceaccounts/token", tokenKind.Kind, true)
	d, err := sub.object()
	if err != nil {
		return nil, err
	}
	obj, err := typed(tokenKind, d.encode())
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return obj.(*authenticationv1.TokenRequest), nil
}

func (a *API) token(ctx context.Context, id tokenID, req *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	stored, err := a.vault.get(id)
	if err != nil {
		a.log.Warn("stored token is unreadable", zap.String("pod_uid", id.PodUID), zap.Error(err))
	}
	wait := tokenWait
	if stored != nil {
		wait = tokenWaitStored
	}
	answer, err := a.askToken(ctx, id, req, wait)
	switch {
	case err == nil:
		if err := a.vault.put(id, answer); err != nil {
			// The pod gets its token; only a restart while offline would miss it.
			a.log.Error("store token", zap.String("pod_uid", id.PodUID), zap.Error(err))
		}
		return answer, nil
	case !errors.Is(err, errNoAnswer):
		return nil, err
	case stored == nil:
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf(
			"token of service account %s/%s: none is stored at this site and %v", id.Namespace, id.ServiceAccount, err))
	}
	life := max(restatedLife, time.Duration(id.Seconds)*time.Second)
	stored.Status.ExpirationTimestamp = metav1.NewTime(time.Now().Add(life))
	return stored, nil
}

// askToken asks the bridge. errNoAnswer means that a stored token may serve; other
// errors are refusals by the API server.
func (a *API) askToken(ctx context.Context, id tokenID, req *authenticationv1.TokenRequest, wait time.Duration) (*authenticationv1.TokenRequest, error) {
	query, err := json.Marshal(streams.TokenQuery{
		Node: a.cfg.Node, Namespace: id.Namespace, ServiceAccount: id.ServiceAccount, TokenRequest: *req,
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	msg, err := a.asker().RequestWithContext(ctx, streams.RequestSubject(a.cfg.Site, streams.RequestToken), query)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	var answer streams.TokenAnswer
	if err := json.Unmarshal(msg.Data, &answer); err != nil {
		return nil, fmt.Errorf("%w: read it: %w", errNoAnswer, err)
	}
	switch s := answer.Status; {
	case s != nil && (s.Code >= 500 || s.Code == http.StatusTooManyRequests || s.Code == 0):
		return nil, fmt.Errorf("%w: %s", errNoAnswer, s.Message)
	case s != nil:
		return nil, &apierrors.StatusError{ErrStatus: *s}
	case answer.TokenRequest == nil || answer.TokenRequest.Status.Token == "":
		return nil, fmt.Errorf("%w: it holds no token", errNoAnswer)
	}
	return answer.TokenRequest, nil
}

func (a *API) asker() Asker {
	if a.cfg.Ask != nil {
		return a.cfg.Ask
	}
	return a.cfg.JS.Conn()
}
