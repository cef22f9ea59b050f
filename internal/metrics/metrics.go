// Package metrics serves a daemon's state over HTTP: Prometheus metrics,
// liveness and readiness.
//
// The bridge and the leaf call Serve with a registry of their own; nothing here is
// global, and nothing is registered. Without a web configuration file there is neither TLS nor
// authentication: listen on loopback, or behind a network policy. Answers hold names and numbers,
// never contents of objects.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/zapr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/exporter-toolkit/web"
	"go.uber.org/zap"
)

// Endpoint is where and to whom metrics are served.
type Endpoint struct {
	// Listen is host:port. Empty: the server is off.
	Listen string
	// WebConfigFile has TLS and authentication, in the form of Prometheus' own exporters
	// (exporter-toolkit). It is read again at each connection. Empty: neither.
	WebConfigFile string
	// Log takes what is wrong with a WebConfigFile that has changed.
	Log *zap.Logger
}

// Bounds of a request and of the server's shutdown.
const (
	requestTimeout = 10 * time.Second
	closeTimeout   = 2 * time.Second
)

// Serve serves at an endpoint until ctx ends, then returns nil after the requests under way
// have ended. It returns an error if it cannot listen there. It returns nil at once if the server
// is off.
//
//   - /metrics: the metrics that g gathers, in the Prometheus text format or OpenMetrics.
//   - /healthz: 200, or 503 with the text of healthy's error. A nil healthy is healthy
//     while the process answers.
//   - /readyz: the same with ready.
func Serve(ctx context.Context, e Endpoint, g prometheus.Gatherer, healthy, ready func() error) error {
	if e.Listen == "" {
		return nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", e.Listen)
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return e.serve(ctx, l, Handler(g, healthy, ready))
}

// CheckWebConfig returns what is wrong with a web configuration file.
func CheckWebConfig(file string) error { return web.Validate(file) }

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
func (e Endpoint) serve(ctx context.Context, l net.Listener, h http.Handler) error {
	defer l.Close() // in case that the web configuration cannot be used
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: requestTimeout, ReadTimeout: requestTimeout, WriteTimeout: requestTimeout,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	ended := make(chan error, 1)
	go func() { ended <- e.accept(s, l) }()
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

// accept serves connections until s is shut down.
func (e Endpoint) accept(s *http.Server, l net.Listener) error {
	if e.WebConfigFile == "" {
		return s.Serve(l)
	}
	log := slog.New(logr.ToSlogHandler(zapr.NewLogger(e.Log)))
	return web.Serve(l, s, &web.FlagConfig{WebConfigFile: &e.WebConfigFile}, log)
}

// Bool returns the value of a gauge that is either 1 or 0.
func Bool(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
