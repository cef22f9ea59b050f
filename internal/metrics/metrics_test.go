package metrics

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, h http.Handler) (url string, stop func() error) {
	return startAt(t, Endpoint{}, h)
}

func startAt(t *testing.T, e Endpoint, h http.Handler) (url string, stop func() error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.serve(ctx, l, h) }()
	return "http://" + l.Addr().String(), func() error {
		cancel()
		http.DefaultClient.CloseIdleConnections()
		return <-done
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(body)
}

func TestServesMetricsAndHealth(t *testing.T) {
	registry := prometheus.NewRegistry()
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "petiole_test_things_total", Help: "Things."})
	registry.MustRegister(c)
	c.Add(3)
	var broken, frozen atomic.Bool
	url, stop := start(t, Handler(registry, func() error {
		if frozen.Load() {
			return errors.New("store: frozen")
		}
		return nil
	}, func() error {
		if broken.Load() {
			return errors.New("hub: not connected")
		}
		return nil
	}))
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()

	if code, body := get(t, url+"/metrics"); code != http.StatusOK || !strings.Contains(body, "petiole_test_things_total 3") {
		t.Errorf("/metrics = %d %s", code, body)
	}
	if code, body := get(t, url+"/readyz"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("/readyz = %d %q", code, body)
	}
	broken.Store(true)
	if code, body := get(t, url+"/readyz"); code != http.StatusServiceUnavailable || body != "hub: not connected\n" {
		t.Errorf("/readyz = %d %q of a part that is not ready", code, body)
	}
	if code, _ := get(t, url+"/healthz"); code != http.StatusOK {
		t.Errorf("/healthz = %d: not being ready is no reason to be restarted", code)
	}
	frozen.Store(true)
	if code, body := get(t, url+"/healthz"); code != http.StatusServiceUnavailable || body != "store: frozen\n" {
		t.Errorf("/healthz = %d %q of a part that is broken", code, body)
	}
	if code, _ := get(t, url+"/"); code != http.StatusNotFound {
		t.Errorf("/ = %d", code)
	}
	answer, err := http.Post(url+"/readyz", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST /readyz = %d", answer.StatusCode)
	}
}

func TestOffWhenThereIsNoAddress(t *testing.T) {
	if err := Serve(t.Context(), Endpoint{}, prometheus.NewRegistry(), nil, nil); err != nil {
		t.Error(err)
	}
}

func TestAnAddressThatIsTakenIsAnError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = Serve(t.Context(), Endpoint{Listen: l.Addr().String()}, prometheus.NewRegistry(), nil, nil)
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("Serve = %v, want an error that names the address", err)
	}
}

func TestTheEndWaitsForRequests(t *testing.T) {
	under, release := make(chan struct{}), make(chan struct{})
	url, stop := start(t, Handler(prometheus.NewRegistry(), nil, func() error {
		close(under)
		<-release
		return nil
	}))
	got := make(chan string, 1)
	go func() {
		r, err := http.Get(url + "/readyz")
		if err != nil {
			got <- err.Error()
			return
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			got <- err.Error()
			return
		}
		got <- string(body)
	}()
	<-under
	stopped := make(chan error, 1)
	var released atomic.Bool
	go func() {
		err := stop()
		if !released.Load() {
			err = errors.Join(err, errors.New("stopped with a request under way"))
		}
		stopped <- err
	}()
	// The end has begun when nobody is let in any more.
	for {
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			break
		}
		c.Close()
	}
	select {
	case err := <-stopped:
		t.Fatal(err)
	case <-time.After(50 * time.Millisecond):
	}
	released.Store(true)
	close(release)
	if body := <-got; body != "ok\n" {
		t.Errorf("the request under way got %q", body)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
