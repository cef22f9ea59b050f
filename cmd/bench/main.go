// Command bench measures Petiole: against a stock kubelet in the running lab, against
// Telegraf's Modbus input, and how soon sites converge, in a world of its own.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/petiole-io/petiole/internal/bench"
	"github.com/petiole-io/petiole/internal/bench/delivery"
	"github.com/petiole-io/petiole/internal/bench/fieldbus"
	"github.com/petiole-io/petiole/internal/e2e/rig"
)

const usage = `usage: bench latency   [-pods 20] [-changes 100]
       bench footprint [-duration 5m]
       bench delivery
       bench modbus    [-duration 5s] [-only PLAN] -telegraf BINARY -leaf BINARY
`

// collect is the subcommand by which the benchmark runs its own collector.
const collect = "modbus-collect"

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	flags := flag.NewFlagSet("bench "+args[0], flag.ContinueOnError)
	pods := flags.Int("pods", 20, "pods of each kind on each node")
	changes := flags.Int("changes", 100, "changes of one ConfigMap")
	duration := flags.Duration("duration", 0, "how long the link is measured in each state (default 5m), or each plan runs (default 5s)")
	telegraf := flags.String("telegraf", "", "the binary of internal/bench/telegraf")
	only := flags.String("only", "", "run only this plan (default all)")
	leaf := flags.String("leaf", "", "the binary of cmd/leaf")
	if err := flags.Parse(args[1:]); err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root, err := rig.FindRoot()
	if err != nil && args[0] != collect {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	cfg := bench.Config{Root: root, Out: os.Stdout}
	switch args[0] {
	case "latency":
		err = bench.Latency(ctx, bench.LatencyConfig{Config: cfg, Pods: *pods, Changes: *changes})
	case "footprint":
		err = bench.Footprint(ctx, bench.FootprintConfig{Config: cfg, Duration: *duration})
	case "delivery":
		err = delivery.Run(ctx, delivery.Options{Root: root}, os.Stdout)
	case "modbus":
		err = modbus(ctx, fieldbus.Config{Telegraf: *telegraf, Leaf: *leaf, Only: *only, Duration: *duration, Out: os.Stdout})
	case collect:
		err = fieldbus.Collect(ctx, *duration, os.Stdin, os.Stdout)
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

func modbus(ctx context.Context, cfg fieldbus.Config) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if cfg.Duration == 0 {
		cfg.Duration = 5 * time.Second
	}
	cfg.Collector = []string{self, collect, "-duration"}
	return fieldbus.Run(ctx, cfg)
}
