// Package tokens gets the credentials of pods from the cloud: service account tokens, which it
// serves again while the cloud cannot be reached, and requests for certificates. The node API
// calls it.
package tokens

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
	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/leaf/nodeapi/identity"
	"github.com/petiole-io/petiole/streams"
)

const (
	// timeout is the timeout of a request to the bridge. Without a link NATS answers at
	// once that there are no responders; the timeout is for a link that hangs.
	timeout = 5 * time.Second
	// timeoutCached is the timeout if there is a cached token to fall back on.
	timeoutCached = 2 * time.Second
	// cachedTokenLife is the lifetime with which a cached token is served. The token itself
	// is valid for about a year; the kubelet asks again when a fifth of this is left.
	cachedTokenLife = time.Hour
)

// Requester sends a request to the bridge and waits for the answer. *nats.Conn implements it.
type Requester interface {
	RequestWithContext(ctx context.Context, subject string, data []byte) (*nats.Msg, error)
}

// errNoAnswer reports that the cloud could not be reached, or could not answer now.
var errNoAnswer = errors.New("no answer from the cloud")

// Config configures an Issuer. All fields are required.
type Config struct {
	Site, Node string
	Requester  Requester
	Cache      *identity.TokenCache
	// Behind returns how far the wall clock is behind the right one.
	Behind func() time.Duration
	Log    *zap.Logger
}

// Issuer issues tokens. It is safe for concurrent use.
type Issuer struct{ Config }

// New returns an Issuer. It does no I/O.
func New(cfg Config) *Issuer { return &Issuer{cfg} }

// Issue returns the token that the cloud issues, and keeps a copy. While the cloud cannot be
// reached it returns the copy. Every error is one of the API server.
func (i *Issuer) Issue(ctx context.Context, id identity.TokenID, req *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	stored, err := i.Cache.Get(id)
	if err != nil {
		i.Log.Warn("cached token is unreadable", zap.String("pod_uid", id.PodUID), zap.Error(err))
	}
	wait := timeout
	if stored != nil {
		wait = timeoutCached
	}
	answer, err := i.request(ctx, id, req, wait)
	switch {
	case err == nil:
		if err := i.Cache.Put(id, answer); err != nil {
			// The pod gets its token; it is only missing after a restart without a link.
			i.Log.Error("cache token", zap.String("pod_uid", id.PodUID), zap.Error(err))
		}
		// The kubelet compares it with the wall clock: in 1970 it would never ask again, and the token
		// would expire in the pod; in 2038 it would ask all the time.
		answer.Status.ExpirationTimestamp = metav1.NewTime(answer.Status.ExpirationTimestamp.Add(-i.Behind()))
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

// request requests a token from the bridge. errNoAnswer means that a cached token may be
// served; every other error is one of the API server.
func (i *Issuer) request(ctx context.Context, id identity.TokenID, req *authenticationv1.TokenRequest, wait time.Duration) (*authenticationv1.TokenRequest, error) {
	var answer streams.TokenAnswer
	query := streams.TokenQuery{Node: i.Node, Namespace: id.Namespace, ServiceAccount: id.ServiceAccount, TokenRequest: *req}
	if err := i.ask(ctx, streams.RequestToken, query, &answer, wait); err != nil {
		return nil, err
	}
	if err := refusal(answer.Status); err != nil {
		return nil, err
	}
	if answer.TokenRequest == nil || answer.TokenRequest.Status.Token == "" {
		return nil, fmt.Errorf("%w: it has no token", errNoAnswer)
	}
	return answer.TokenRequest, nil
}

// RequestCertificate has the cloud create a request for a certificate of a pod, and returns it as
// it was created. Every error is one of the API server.
func (i *Issuer) RequestCertificate(ctx context.Context, namespace string, spec certificatesv1.PodCertificateRequestSpec) (*certificatesv1.PodCertificateRequest, error) {
	var answer streams.PodCertificateAnswer
	err := i.ask(ctx, streams.RequestPodCertificate, streams.PodCertificateQuery{Node: i.Node, Namespace: namespace, Spec: spec}, &answer, timeout)
	if err == nil {
		err = refusal(answer.Status)
	}
	if err == nil && (answer.Request == nil || answer.Request.Name == "") {
		err = fmt.Errorf("%w: it has no request", errNoAnswer)
	}
	if errors.Is(err, errNoAnswer) {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("certificate of pod %s/%s: %v", namespace, spec.PodName, err))
	}
	return answer.Request, err
}

// ask sends a request to the bridge and decodes its answer. Every error is errNoAnswer, but for a
// query that cannot be encoded.
func (i *Issuer) ask(ctx context.Context, verb string, query, answer any, wait time.Duration) error {
	data, err := json.Marshal(query)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	msg, err := i.Requester.RequestWithContext(ctx, streams.RequestSubject(i.Site, verb), data)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	if err := json.Unmarshal(msg.Data, answer); err != nil {
		return fmt.Errorf("%w: decode it: %w", errNoAnswer, err)
	}
	return nil
}

// refusal returns the error in an answer, nil if there is none: errNoAnswer if the cloud could not
// answer now.
func refusal(s *metav1.Status) error {
	switch {
	case s == nil:
		return nil
	case s.Code >= 500, s.Code == http.StatusTooManyRequests, s.Code == 0:
		return fmt.Errorf("%w: %s", errNoAnswer, s.Message)
	}
	return &apierrors.StatusError{ErrStatus: *s}
}
