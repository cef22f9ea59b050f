package kubeletapi

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/petiole-io/petiole/streams/tunnel"
)

// logBody is the log of a container. If the link is lost meanwhile, it ends with a line that says
// so: the API server does not pass on that an answer is incomplete, and kubectl logs would end as if
// the container had. Errors of the log are lines of it at any kubelet.
type logBody struct {
	io.ReadCloser
	node *node
	last io.Reader
}

// Read implements io.Reader.
func (b *logBody) Read(p []byte) (int, error) {
	if b.last != nil {
		return b.last.Read(p)
	}
	n, err := b.ReadCloser.Read(p)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	reason := err.Error()
	if errors.Is(err, tunnel.ErrSilent) || errors.Is(err, tunnel.ErrNotConnected) || errors.Is(err, tunnel.ErrLost) {
		reason = "the link to site " + b.node.site + " was lost"
	}
	b.last = strings.NewReader(fmt.Sprintf("\nthe log ends here: %s\n", reason))
	return n, nil
}
