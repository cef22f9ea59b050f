package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
)

const (
	execs = 20 // on each node
	// copyRate limits both links while copyBytes are copied, so that they are what holds a copy up.
	copyRate, copyBits = "20mbit", 20_000_000
	copyBytes          = 10_000_000
	copies             = 3 // in each direction
	// copyShare is the share of its link that a copy has at least.
	copyShare = 0.6
)

// sessions measures an exec with its answer, and what kubectl cp does, an exec with a file as its
// input or output, over a link of a limited rate. A session on the stock node goes from the API server
// to its kubelet.
func (b *bench) sessions(ctx context.Context, _ LatencyConfig) (rows []row, err error) {
	b.say("exec, %d on each node, and copies of %d MB over links of %s…", execs, copyBytes/1_000_000, copyRate)
	for _, n := range b.nodes {
		if _, err := b.createAndAwait(ctx, b.pod(n, "session-"+n.slug(), false)); err != nil {
			return nil, err
		}
	}
	round, err := b.inTurn(execs, func(n *node) error {
		var out bytes.Buffer
		if err := b.exec(ctx, n, nil, &out, "echo", "done"); err != nil {
			return err
		}
		if out.String() != "done\n" {
			return fmt.Errorf("exec on %s answers %q", n.name, out.String())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	rows = append(rows, row{what: "exec, with its answer", stock: round[0], petiole: round[1], goal: 2})
	for _, n := range b.nodes {
		if err := b.network.Limit(n.site, copyRate); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, b.network.Unlimit(n.site)) }()
	}
	data := make([]byte, copyBytes)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(data) // never fails
	for _, direction := range []struct {
		name string
		copy func(*node) error
	}{
		{"to", func(n *node) error { return b.copyTo(ctx, n, data) }},
		{"from", func(n *node) error { return b.copyFrom(ctx, n, data) }},
	} {
		times, err := b.inTurn(copies, direction.copy)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row{what: fmt.Sprintf("copy of %d MB %s the node, link of %s", copyBytes/1_000_000, direction.name, copyRate), stock: times[0], petiole: times[1]})
		b.sayShares(direction.name, times)
	}
	return rows, b.clear(ctx)
}

// inTurn does something on either node in turn, and returns how long it took on each.
func (b *bench) inTurn(rounds int, do func(*node) error) ([][]time.Duration, error) {
	times := make([][]time.Duration, len(b.nodes))
	for round := range rounds {
		for i := range b.nodes {
			i = (i + round) % len(b.nodes)
			start := time.Now()
			if err := do(b.nodes[i]); err != nil {
				return nil, err
			}
			times[i] = append(times[i], time.Since(start))
		}
	}
	return times, nil
}

// sayShares prints what copies had of their links.
func (b *bench) sayShares(direction string, times [][]time.Duration) {
	for i, n := range b.nodes {
		share := copyBytes * 8 / quantile(times[i], 0.5).Seconds() / copyBits
		verdict := "met"
		if share < copyShare {
			verdict = "MISSED"
		}
		b.say("copy %s the node, %s: %.0f%% of the link (goal ≥ %.0f%% %s)", direction, n.label, 100*share, 100*copyShare, verdict)
	}
}

func (b *bench) copyTo(ctx context.Context, n *node, data []byte) error {
	var out bytes.Buffer
	if err := b.exec(ctx, n, bytes.NewReader(data), &out, "sh", "-c", "cat > /tmp/copy && wc -c < /tmp/copy"); err != nil {
		return err
	}
	if want := fmt.Sprintln(len(data)); out.String() != want {
		return fmt.Errorf("copy to %s: the file has %q bytes, want %q", n.name, out.String(), want)
	}
	return nil
}

func (b *bench) copyFrom(ctx context.Context, n *node, data []byte) error {
	var out bytes.Buffer
	if err := b.exec(ctx, n, nil, &out, "cat", "/tmp/copy"); err != nil {
		return err
	}
	if !bytes.Equal(out.Bytes(), data) {
		return fmt.Errorf("copy from %s: %d bytes that are not the %d of the file", n.name, out.Len(), len(data))
	}
	return nil
}

// exec runs a command in the pod that sessions has started on a node.
func (b *bench) exec(ctx context.Context, n *node, stdin io.Reader, stdout io.Writer, command ...string) error {
	ctx, cancel := context.WithTimeout(ctx, runningLimit)
	defer cancel()
	request := b.rig.Kube.CoreV1().RESTClient().Post().Namespace(namespace).Resource("pods").Name("session-"+n.slug()).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Stdin: stdin != nil, Stdout: true, Command: command}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(b.rig.REST, http.MethodGet, request.URL().String())
	if err == nil {
		err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: stdout})
	}
	if err != nil {
		return fmt.Errorf("exec %v on %s: %w", command, n.name, err)
	}
	return nil
}
