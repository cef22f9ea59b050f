package bridge

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/streams"
)

// handler handles the requests of one verb.
type handler struct {
	// workers is the number of requests handled in parallel. At most backlog requests wait,
	// and at most perSite of one site, so that no site can block the others. Requests beyond
	// these limits, or larger than maxBytes, are rejected at once; the site retries later.
	workers, backlog, perSite, maxBytes int
	// answer returns a value that is encoded as JSON.
	answer func(ctx context.Context, site string, data []byte) any
	// refuse returns the answer to a rejected request.
	refuse func(reason string) any
}

// requests receives the sites' requests and passes each to the handler of its verb. The answer
// to an unknown verb has the error fields of all answer types.
type requests struct {
	handlers map[string]*handler
	log      *zap.Logger
	count    *counters
}

// errorAnswer is the answer to an unknown verb.
type errorAnswer struct {
	Error  string         `json:"error"`
	Status *metav1.Status `json:"status"`
}

type request struct {
	site string
	msg  *nats.Msg
}

// verbQueue is the queue of one verb.
type verbQueue struct {
	*handler
	queue chan request

	mu      sync.Mutex
	waiting map[string]int
}

// run handles requests until ctx ends.
func (r *requests) run(ctx context.Context, nc *nats.Conn) error {
	queues := map[string]*verbQueue{}
	var wg sync.WaitGroup
	for verb, h := range r.handlers {
		l := &verbQueue{handler: h, queue: make(chan request, h.backlog), waiting: map[string]int{}}
		queues[verb] = l
		for range h.workers {
			wg.Go(func() { r.work(ctx, l) })
		}
	}
	sub, err := nc.Subscribe(streams.RequestFilter, func(m *nats.Msg) { r.dispatch(queues, m) })
	if err != nil {
		err = fmt.Errorf("subscribe to requests: %w", err)
	} else {
		<-ctx.Done()
		if uerr := sub.Unsubscribe(); uerr != nil && !nc.IsClosed() {
			err = fmt.Errorf("unsubscribe from requests: %w", uerr)
		}
	}
	wg.Wait()
	return err
}

// dispatch runs on the subscription's goroutine and does not block.
func (r *requests) dispatch(queues map[string]*verbQueue, m *nats.Msg) {
	site, verb, err := streams.ParseRequest(m.Subject)
	l := queues[verb]
	switch {
	case err != nil:
		r.unknown(m, err.Error())
	case l == nil:
		r.unknown(m, fmt.Sprintf("no such request: %q", verb))
	case len(m.Data) > l.maxBytes:
		r.refuse(l, m, fmt.Sprintf("request has %d bytes, the limit is %d", len(m.Data), l.maxBytes))
	case !l.add(request{site, m}):
		r.refuse(l, m, "the bridge has too many requests")
	}
}

func (r *requests) unknown(m *nats.Msg, reason string) {
	r.count.refused.Add(1)
	r.reply(m, errorAnswer{Error: reason, Status: badRequest(reason)})
}

func (r *requests) refuse(l *verbQueue, m *nats.Msg, reason string) {
	r.count.refused.Add(1)
	r.reply(m, l.handler.refuse(reason))
}

func (r *requests) work(ctx context.Context, l *verbQueue) {
	for {
		select {
		case <-ctx.Done():
			return
		case q := <-l.queue:
			r.reply(q.msg, l.answer(ctx, q.site, q.msg.Data))
			l.done(q.site)
		}
	}
}

func (r *requests) reply(m *nats.Msg, a any) {
	data, err := json.Marshal(a)
	if err == nil {
		err = m.Respond(data)
	}
	if err != nil {
		r.log.Debug("request not answered, the site will retry", zap.String("subject", m.Subject), zap.Error(err))
	}
}

// add queues a request. It returns false if there are too many.
func (q *verbQueue) add(r request) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting[r.site] >= q.perSite {
		return false
	}
	select {
	case q.queue <- r:
		q.waiting[r.site]++
		return true
	default:
		return false
	}
}

// done records that a request of the site was answered.
func (q *verbQueue) done(site string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting[site]--; q.waiting[site] == 0 {
		delete(q.waiting, site)
	}
}
