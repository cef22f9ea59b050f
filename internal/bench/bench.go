package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/petiole-io/petiole/internal/e2e/rig"
	"github.com/petiole-io/petiole/internal/lab/network"
)

// Config configures both benchmarks.
type Config struct {
	// Root is the repository whose lab is up.
	Root string
	// Out gets progress and tables.
	Out io.Writer
}

type bench struct {
	rig   *rig.Rig
	out   io.Writer
	nodes []*node // the stock node first: others are compared with it
	// network has the links of both nodes.
	network network.Network
}

// run measures with both nodes up, and deletes what it has created.
func run(ctx context.Context, cfg Config, measure func(context.Context, *bench) error) (err error) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		return errors.New("run benchmark: needs Linux and root, for a node of its own")
	}
	r, err := rig.Open(ctx, cfg.Root)
	if err != nil {
		return fmt.Errorf("run benchmark (is the lab up?): %w", err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	plant, err := siteNode(r, r.Sites[0])
	if err != nil {
		return err
	}
	if err := nodeReady(ctx, r.Kube, plant.name); err != nil {
		return fmt.Errorf("run benchmark: %w", err)
	}
	s, err := newStock(r, cfg.Out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }() //nolint:contextcheck // also once ctx has ended
	stock, err := s.start(ctx)
	if err != nil {
		return err
	}
	remove, err := createNamespace(ctx, r.Kube)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	return measure(ctx, &bench{rig: r, out: cfg.Out, nodes: []*node{stock, plant}, network: s.net})
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.out, format+"\n", args...) }
