package push

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
)

// web posts messages to web hooks of one server, over a connection that is kept.
type web struct{ client *http.Client }

func newWeb() *web {
	return &web{client: &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 1,
	}}}
}

// send posts the body as application/json. Any answer of 2xx takes it; 408, 425, 429 and
// 5xx are tried again; every other answer is final (RFC 9110, section 15).
func (w *web) send(ctx context.Context, m Message) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, m.Target.URL, bytes.NewReader(m.Body))
	if err != nil {
		return fmt.Errorf("post sample: %w: %w", errRefused, err)
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := w.client.Do(request)
	if err != nil {
		return fmt.Errorf("post sample: %w", err)
	}
	defer answer.Body.Close()
	// The connection is used again only when the answer has been read.
	if _, err := io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10)); err != nil {
		return fmt.Errorf("post sample: read answer: %w", err)
	}
	switch c := answer.StatusCode; {
	case c >= 200 && c < 300:
		return nil
	case c == http.StatusRequestTimeout || c == http.StatusTooEarly || c == http.StatusTooManyRequests || c >= 500:
		return fmt.Errorf("post sample: answer %s", answer.Status)
	default:
		return fmt.Errorf("post sample: %w: answer %s", errRefused, answer.Status)
	}
}

func (w *web) close() { w.client.CloseIdleConnections() }
