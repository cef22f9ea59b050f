// Package metrics serves a daemon's state over HTTP: Prometheus metrics,
// liveness and readiness.
//
// The bridge and the leaf call Serve with a registry of their own; nothing here is
// global, and nothing is registered. There is neither TLS nor authentication: listen on
// loopback, or behind a network policy. Answers hold names and numbers, never contents
// of objects.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Bounds of a request and of the server's shutdown.
const (
	requestTimeout = 10 * time.Second
	closeTimeout   = 2 * time.Second
)

// Serve serves at listen until ctx ends, then returns nil after the requests under way
// have ended. It returns an error if it cannot listen there. An empty listen turns
// the server off: Serve returns nil at once.
//
//   - /metrics: the metrics that g gathers, in the Prometheus text format or OpenMetrics.
//   - /healthz: 200, or 503 with the text of healthy's error. A nil healthy is healthy
//     while the process answers.
//   - /readyz: the same with ready.
func Serve(ctx context.Context, listen string, g prometheus.Gatherer, healthy, ready func() error) error {
	if listen == "" {
		return nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return serve(ctx, l, Handler(g, healthy, ready))
}

// Handler returns the handler of Serve.
func Handler(g prometheus.Gatherer, healthy, ready func() error) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	mux.HandleFunc("GET /healthz", probe(healthy))
	mux.HandleFunc("GET /readyz", probe(ready))
	return mux
}

func probe(ok func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if ok != nil {
			if err := ok(); err != nil {
				answer(w, http.StatusServiceUnavailable, err.Error())
				return
			}
		}
		answer(w, http.StatusOK, "ok")
	}
}

// answer writes a line. A reader that has gone away needs no answer.
func answer(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, text+"\n")
}

// serve owns l.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: requestTimeout, ReadTimeout: requestTimeout, WriteTimeout: requestTimeout,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve metrics at %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	// ctx has ended: the requests under way get a moment of their own.
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	err := s.Shutdown(closing)
	if err != nil {
		err = s.Close()
	}
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("stop serving metrics at %s: %w", l.Addr(), err)
	}
	return nil
}

// Bool returns the value of a gauge that is either 1 or 0.
func Bool(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
