// Command bench compares Petiole with a stock kubelet, in the lab that is up.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/petiole-io/petiole/internal/bench"
	"github.com/petiole-io/petiole/internal/e2e/rig"
)

const usage = `usage: bench latency   [-pods 20] [-changes 100]
       bench footprint [-duration 5m]
`

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	flags := flag.NewFlagSet("bench "+args[0], flag.ContinueOnError)
	pods := flags.Int("pods", 20, "pods of each kind on each node")
	changes := flags.Int("changes", 100, "changes of one ConfigMap")
	duration := flags.Duration("duration", 0, "how long the link is watched in each state (default 5m)")
	if err := flags.Parse(args[1:]); err != nil {
		return 2
	}
	root, err := rig.FindRoot()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cfg := bench.Config{Root: root, Out: os.Stdout}
	switch args[0] {
	case "latency":
		err = bench.Latency(ctx, bench.LatencyConfig{Config: cfg, Pods: *pods, Changes: *changes})
	case "footprint":
		err = bench.Footprint(ctx, bench.FootprintConfig{Config: cfg, Duration: *duration})
	default:
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}
