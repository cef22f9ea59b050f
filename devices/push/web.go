package push

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
)

// web posts messages to the web hooks of one server, over one connection.
type web struct{ client *http.Client }

func newWeb() *web {
	return &web{client: &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 1,
	}}}
}

// send posts the body. A 2xx response accepts it; 408, 425, 429 and 5xx
// are retried; every other response is final (RFC 9110, section 15).
func (w *web) send(ctx context.Context, m Message) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, m.Target.URL, bytes.NewReader(m.Body))
	if err != nil {
		return fmt.Errorf("post sample: %w: %w", errRefused, err)
	}
	request.Header.Set("Content-Type", m.ContentType)
	response, err := w.client.Do(request)
	if err != nil {
		return fmt.Errorf("post sample: %w", err)
	}
	defer response.Body.Close()
	// The connection is reused only if the response has been read.
	if _, err := io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10)); err != nil {
		return fmt.Errorf("post sample: read response: %w", err)
	}
	switch c := response.StatusCode; {
	case c >= 200 && c < 300:
		return nil
	case c == http.StatusRequestTimeout || c == http.StatusTooEarly || c == http.StatusTooManyRequests || c >= 500:
		return fmt.Errorf("post sample: response %s", response.Status)
	default:
		return fmt.Errorf("post sample: %w: response %s", errRefused, response.Status)
	}
}

func (w *web) close() { w.client.CloseIdleConnections() }
