package requests

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

// Handler handles the requests of one verb.
type Handler struct {
	// Workers is the number of requests handled in parallel. At most Backlog requests wait,
	// and at most PerSite of one site, so that no site can block the others. Requests beyond
	// these limits, or larger than MaxBytes, are rejected at once; the site retries later.
	Workers, Backlog, PerSite, MaxBytes int
	// Answer returns a value that is encoded as JSON.
	Answer func(ctx context.Context, site string, data []byte) any
	// Refuse returns the answer to a rejected request.
	Refuse func(reason string) any
}

// Server receives the sites' requests and passes each to the handler of its verb. The answer
// to an unknown verb has the error fields of all answer types.
type Server struct {
	handlers map[string]Handler
	refused  func()
	log      *zap.Logger
}

// New returns a server that has not started, with a handler for each verb. refused is called
// for each request that is rejected or whose verb is unknown.
func New(handlers map[string]Handler, refused func(), log *zap.Logger) *Server {
	return &Server{handlers: handlers, refused: refused, log: log}
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
	Handler
	queue chan request

	mu      sync.Mutex
	waiting map[string]int
}

// Run handles requests until ctx ends.
func (s *Server) Run(ctx context.Context, nc *nats.Conn) error {
	queues := map[string]*verbQueue{}
	var wg sync.WaitGroup
	for verb, h := range s.handlers {
		q := &verbQueue{Handler: h, queue: make(chan request, h.Backlog), waiting: map[string]int{}}
		queues[verb] = q
		for range h.Workers {
			wg.Go(func() { s.work(ctx, q) })
		}
	}
	sub, err := nc.Subscribe(streams.RequestFilter, func(m *nats.Msg) { s.dispatch(queues, m) })
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
func (s *Server) dispatch(queues map[string]*verbQueue, m *nats.Msg) {
	site, verb, err := streams.ParseRequest(m.Subject)
	q := queues[verb]
	switch {
	case err != nil:
		s.unknown(m, err.Error())
	case q == nil:
		s.unknown(m, fmt.Sprintf("no such request: %q", verb))
	case len(m.Data) > q.MaxBytes:
		s.refuse(q, m, fmt.Sprintf("request has %d bytes, the limit is %d", len(m.Data), q.MaxBytes))
	case !q.add(request{site, m}):
		s.refuse(q, m, "the bridge has too many requests")
	}
}

func (s *Server) unknown(m *nats.Msg, reason string) {
	s.refused()
	s.reply(m, errorAnswer{Error: reason, Status: badRequest(reason)})
}

func (s *Server) refuse(q *verbQueue, m *nats.Msg, reason string) {
	s.refused()
	s.reply(m, q.Refuse(reason))
}

func (s *Server) work(ctx context.Context, q *verbQueue) {
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-q.queue:
			s.reply(r.msg, q.Answer(ctx, r.site, r.msg.Data))
			q.done(r.site)
		}
	}
}

func (s *Server) reply(m *nats.Msg, a any) {
	data, err := json.Marshal(a)
	if err == nil {
		err = m.Respond(data)
	}
	if err != nil {
		s.log.Debug("request not answered, the site will retry", zap.String("subject", m.Subject), zap.Error(err))
	}
}

// add queues a request. It returns false if there are too many.
func (q *verbQueue) add(r request) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting[r.site] >= q.PerSite {
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
