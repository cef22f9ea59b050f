package bridge

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/petiole-io/petiole/bridge/lease"
)

// requestMetrics counts the requests to the API server and records whether it answers.
type requestMetrics struct {
	total    *prometheus.CounterVec
	duration *prometheus.HistogramVec

	mu       sync.Mutex
	answered time.Time
	failure  error
}

func newRequestMetrics() *requestMetrics {
	return &requestMetrics{
		total: counterVec("api_requests_total", "Requests to the API server, by method and class of status code; error: no answer.", "method", "code"),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: "api_request_duration_seconds",
			Help: "Time until the API server starts to answer.", Buckets: waitBuckets,
		}, []string{"method"}),
	}
}

// Describe implements prometheus.Collector.
func (m *requestMetrics) Describe(ch chan<- *prometheus.Desc) {
	m.total.Describe(ch)
	m.duration.Describe(ch)
}

// Collect implements prometheus.Collector.
func (m *requestMetrics) Collect(ch chan<- prometheus.Metric) {
	m.total.Collect(ch)
	m.duration.Collect(ch)
}

// transport returns a transport that counts requests.
func (m *requestMetrics) transport(next http.RoundTripper) http.RoundTripper {
	return &countingTransport{m, next}
}

type countingTransport struct {
	*requestMetrics
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *countingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	start := time.Now()
	answer, err := t.next.RoundTrip(r)
	switch {
	case err == nil:
		t.total.WithLabelValues(r.Method, codeClass(answer.StatusCode)).Inc()
		t.duration.WithLabelValues(r.Method).Observe(time.Since(start).Seconds())
	case errors.Is(err, context.Canceled), errors.Is(err, lease.ErrNotLeading), errors.Is(err, lease.ErrDeposed):
		return answer, err // says nothing about the API server
	default:
		t.total.WithLabelValues(r.Method, "error").Inc()
	}
	t.note(answer, err)
	return answer, err
}

// WrappedRoundTripper lets client-go find the transport whose requests can be cancelled.
func (t *countingTransport) WrappedRoundTripper() http.RoundTripper { return t.next }

// note records whether the API server works. Any answer below 500 shows that it does.
func (m *requestMetrics) note(answer *http.Response, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err != nil:
		m.failure = err
	case answer.StatusCode >= http.StatusInternalServerError:
		m.failure = errors.New(answer.Status)
	default:
		m.answered, m.failure = time.Now(), nil
	}
}

// lastFailure returns nil if the API server has answered the last request, or has failed for
// less than grace.
func (m *requestMetrics) lastFailure(now time.Time, grace time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.answered.IsZero() && m.failure == nil:
		return errors.New("no answer yet")
	case m.failure != nil && now.Sub(m.answered) >= grace:
		return m.failure
	}
	return nil
}

// codeClass returns 2xx, 4xx, and so on, but individual codes that matter by themselves.
func codeClass(code int) string {
	switch code {
	case http.StatusNotFound, http.StatusConflict, http.StatusGone, http.StatusTooManyRequests, http.StatusForbidden, http.StatusUnauthorized:
		return strconv.Itoa(code)
	}
	return strconv.Itoa(code/100) + "xx"
}
