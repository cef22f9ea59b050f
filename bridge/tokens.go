package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/streams"
)

// tokenBacklog bounds the requests that wait; more are refused at once, and the site
// asks again.
const tokenBacklog = 1024

// tokens answers the sites' requests for service account tokens, in the name of the
// node that asks: the API server gives a node tokens for its own pods only.
type tokens struct {
	clients *clients
	watch   *watch
	log     *zap.Logger
	count   *counters
}

// run answers until ctx ends.
func (t *tokens) run(ctx context.Context, nc *nats.Conn, workers int) error {
	queue := make(chan *nats.Msg, tokenBacklog)
	sub, err := nc.Subscribe(streams.RequestFilter, func(m *nats.Msg) {
		select {
		case queue <- m:
		default:
			t.reply(m, streams.TokenAnswer{Status: statusOf(apierrors.NewTooManyRequests("the bridge has too many requests", 1))})
		}
	})
	if err != nil {
		return fmt.Errorf("subscribe to requests: %w", err)
	}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case m := <-queue:
					t.reply(m, t.answer(ctx, m))
				}
			}
		})
	}
	wg.Wait()
	if err := sub.Unsubscribe(); err != nil && !nc.IsClosed() {
		return fmt.Errorf("unsubscribe from requests: %w", err)
	}
	return nil
}

func (t *tokens) reply(m *nats.Msg, a streams.TokenAnswer) {
	data, err := json.Marshal(a)
	if err == nil {
		err = m.Respond(data)
	}
	if err != nil {
		t.log.Debug("request not answered, the site asks again", zap.String("subject", m.Subject), zap.Error(err))
	}
}

func (t *tokens) answer(ctx context.Context, m *nats.Msg) streams.TokenAnswer {
	site, verb, err := streams.ParseRequest(m.Subject)
	if err == nil && verb != streams.RequestToken {
		err = fmt.Errorf("no such request: %q", verb)
	}
	var q streams.TokenQuery
	if err == nil {
		err = json.Unmarshal(m.Data, &q)
	}
	if err != nil {
		return streams.TokenAnswer{Status: statusOf(apierrors.NewBadRequest(err.Error()))}
	}
	if err := t.request(ctx, site, &q); err != nil {
		return streams.TokenAnswer{Status: statusOf(err)}
	}
	t.count.tokens.Add(1)
	return streams.TokenAnswer{TokenRequest: &q.TokenRequest}
}

// request fills in q's TokenRequest.
func (t *tokens) request(ctx context.Context, site string, q *streams.TokenQuery) error {
	o := t.watch.get(coreKey("nodes", "", q.Node))
	if o == nil || o.GetLabels()[SiteLabel] != site {
		return apierrors.NewForbidden(tokenResource, q.ServiceAccount, fmt.Errorf("node %q does not belong to site %s", q.Node, site))
	}
	as, err := t.clients.as(q.Node)
	if err != nil {
		return err
	}
	filled, err := as.core.ServiceAccounts(q.Namespace).CreateToken(ctx, q.ServiceAccount, &q.TokenRequest, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	q.TokenRequest = *filled
	return nil
}

// statusOf is an error as an API server would answer it; one that is not the API
// server's own is a service that is not available.
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
