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

// handler answers the requests of one verb.
type handler struct {
	// workers answer in parallel; at most backlog requests wait, of one site at most
	// perSite of them, so that no site can keep the others from being answered. A
	// request above one of these, or of more than maxBytes, is refused at once, and the
	// site asks again later.
	workers, backlog, perSite, maxBytes int
	// answer is encoded as JSON.
	answer func(ctx context.Context, site string, data []byte) any
	// refuse is the answer to a request that is not carried out.
	refuse func(reason string) any
}

// requests takes the sites' requests and hands each to the handler of its verb. An
// unknown verb is answered with an error that readers of every answer find.
type requests struct {
	handlers map[string]*handler
	log      *zap.Logger
	count    *counters
}

// refusal is the answer to an unknown verb.
type errorAnswer struct {
	Error  string         `json:"error"`
	Status *metav1.Status `json:"status"`
}

type request struct {
	site string
	msg  *nats.Msg
}

// lane is the queue of one verb.
type verbQueue struct {
	*handler
	queue chan request

	mu      sync.Mutex
	waiting map[string]int
}

// run answers until ctx ends.
func (r *requests) run(ctx context.Context, nc *nats.Conn) error {
	lanes := map[string]*verbQueue{}
	var wg sync.WaitGroup
	for verb, h := range r.handlers {
		l := &verbQueue{handler: h, queue: make(chan request, h.backlog), waiting: map[string]int{}}
		lanes[verb] = l
		for range h.workers {
			wg.Go(func() { r.work(ctx, l) })
		}
	}
	sub, err := nc.Subscribe(streams.RequestFilter, func(m *nats.Msg) { r.take(lanes, m) })
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

// take runs on the subscription's goroutine and does not block.
func (r *requests) take(lanes map[string]*verbQueue, m *nats.Msg) {
	site, verb, err := streams.ParseRequest(m.Subject)
	l := lanes[verb]
	switch {
	case err != nil:
		r.unknown(m, err.Error())
	case l == nil:
		r.unknown(m, fmt.Sprintf("no such request: %q", verb))
	case len(m.Data) > l.maxBytes:
		r.refuse(l, m, fmt.Sprintf("request has %d bytes, at most %d are taken", len(m.Data), l.maxBytes))
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
		r.log.Debug("request not answered, the site asks again", zap.String("subject", m.Subject), zap.Error(err))
	}
}

// enter queues a request, or returns false when there are too many.
func (l *verbQueue) add(q request) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting[q.site] >= l.perSite {
		return false
	}
	select {
	case l.queue <- q:
		l.waiting[q.site]++
		return true
	default:
		return false
	}
}

// leave notes that a request of the site was answered.
func (l *verbQueue) done(site string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting[site]--; l.waiting[site] == 0 {
		delete(l.waiting, site)
	}
}
