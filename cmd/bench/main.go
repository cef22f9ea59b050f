// Command bench measures Petiole: against a stock kubelet in the running lab, against
// Telegraf's Modbus input, and how soon sites converge, in a world of its own.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/petiole-io/petiole/internal/bench"
	"github.com/petiole-io/petiole/internal/bench/compare"
	"github.com/petiole-io/petiole/internal/bench/delivery"
	"github.com/petiole-io/petiole/internal/bench/fieldbus"
	"github.com/petiole-io/petiole/internal/bench/hub"
	"github.com/petiole-io/petiole/internal/bench/link"
	"github.com/petiole-io/petiole/internal/e2e/rig"
)

// collect is the subcommand by which the benchmark runs its own collector.
const collect = "modbus-collect"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "bench", Short: "Measure Petiole", SilenceUsage: true, SilenceErrors: true}
	cmd.AddCommand(latencyCommand(), footprintCommand(), smallCommand(), deliveryCommand(), compareCommand(), hubCommand(), linkCommand(), modbusCommand(), diskCommand(), collectCommand())
	return cmd
}

func latencyCommand() *cobra.Command {
	var cfg bench.LatencyConfig
	cmd := &cobra.Command{
		Use: "latency", Short: "Compare latencies with a stock kubelet, in the lab that is up", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			cfg.Out = cmd.OutOrStdout()
			if cfg.Root, err = rig.FindRoot(); err != nil {
				return err
			}
			return bench.Latency(cmd.Context(), cfg)
		},
	}
	cmd.Flags().IntVar(&cfg.Pods, "pods", 20, "pods of each kind on each node")
	cmd.Flags().IntVar(&cfg.Changes, "changes", 100, "changes of one ConfigMap")
	cmd.Flags().StringVar(&cfg.Only, "only", "", "measure one thing only: change, start, bulk or sessions")
	return cmd
}

func footprintCommand() *cobra.Command {
	var cfg bench.FootprintConfig
	cmd := &cobra.Command{
		Use: "footprint", Short: "Measure memory and idle traffic, in the lab that is up", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			cfg.Out = cmd.OutOrStdout()
			if cfg.Root, err = rig.FindRoot(); err != nil {
				return err
			}
			return bench.Footprint(cmd.Context(), cfg)
		},
	}
	cmd.Flags().DurationVar(&cfg.Duration, "duration", 5*time.Minute, "how long the link is measured in each state")
	return cmd
}

func smallCommand() *cobra.Command {
	var cfg bench.SmallConfig
	cmd := &cobra.Command{
		Use: "small", Short: "Run a whole gateway in little memory, in the lab that is up", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			cfg.Out = cmd.OutOrStdout()
			if cfg.Root, err = rig.FindRoot(); err != nil {
				return err
			}
			return bench.Small(cmd.Context(), cfg)
		},
	}
	cmd.Flags().IntSliceVar(&cfg.Limits, "limit", []int{256}, "memory limits in `MB`, tried one after the other")
	cmd.Flags().DurationVar(&cfg.Duration, "duration", 10*time.Minute, "how long each limit is tried")
	return cmd
}

func deliveryCommand() *cobra.Command {
	var o delivery.Options
	cmd := &cobra.Command{
		Use: "delivery", Short: "Measure how soon sites converge, and what a reconnect costs", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Root, err = rig.FindRoot(); err != nil {
				return err
			}
			return delivery.Run(cmd.Context(), o, cmd.OutOrStdout())
		},
	}
	cmd.Flags().IntVar(&o.Reconnects, "reconnects", 3, "how often all sites are cut and come back")
	cmd.Flags().StringVar(&o.Only, "only", "", "measure one part only: returns or reconnect")
	return cmd
}

func compareCommand() *cobra.Command {
	var o compare.Options
	cmd := &cobra.Command{
		Use: "compare latency|delivery [-- FLAGS]", Short: "Run a benchmark of this version and of another in turns, and print the ratios", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.Root, err = rig.FindRoot(); err != nil {
				return err
			}
			o.Benchmark, o.Args, o.Out = args[0], args[1:], cmd.OutOrStdout()
			return compare.Run(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.Former, "former", "", "`folder` of the other version, with its programs in .lab/bin (required)")
	cmd.Flags().IntVar(&o.Rounds, "rounds", 2, "how often each version runs")
	cmd.Flags().Float64Var(&o.Bound, "bound", 1.05, "the largest ratio that is no error")
	if err := cmd.MarkFlagRequired("former"); err != nil {
		panic(err) // a flag of that name is not defined
	}
	return cmd
}

func hubCommand() *cobra.Command {
	var cfg hub.Config
	cmd := &cobra.Command{
		Use: "hub", Short: "Compare streams that all sites share with streams of each site's own", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Out = cmd.OutOrStdout()
			return hub.Run(cmd.Context(), cfg)
		},
	}
	cmd.Flags().IntSliceVar(&cfg.Sites, "sites", []int{100, 1000, 10_000}, "numbers of sites, at least 100")
	cmd.Flags().StringSliceVar(&cfg.Only, "only", nil, "run only these `layouts` (default all)")
	cmd.Flags().BoolVar(&cfg.SkipAttacks, "quick", false, "without floods")
	cmd.Flags().StringVar(&cfg.Server, "server", "", "the `binary` of nats-server (required)")
	cmd.Flags().StringVar(&cfg.CLI, "nats", "", "the `binary` of the nats command, to try its reports")
	if err := cmd.MarkFlagRequired("server"); err != nil {
		panic(err) // a flag of that name is not defined
	}
	return cmd
}

func linkCommand() *cobra.Command {
	var cfg link.Config
	cmd := &cobra.Command{
		Use: "link", Short: "Measure slow and idle links, with a hub and a leaf in one process, beside a stock kubelet's watches", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			cfg.Out, cfg.Log = cmd.OutOrStdout(), cmd.ErrOrStderr()
			if cfg.Root, err = rig.FindRoot(); err != nil {
				return err
			}
			return link.Run(cmd.Context(), cfg)
		},
	}
	cmd.Flags().BoolVar(&cfg.Lines, "lines", false, "measure slow lines only")
	cmd.Flags().BoolVar(&cfg.Idle, "idle", false, "measure the traffic of an idle link only")
	return cmd
}

func modbusCommand() *cobra.Command {
	var cfg fieldbus.Config
	cmd := &cobra.Command{
		Use: "modbus", Short: "Compare the Modbus driver with Telegraf's modbus input, on the same slaves", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			cfg.Collector, cfg.Out = []string{self, collect, "--duration"}, cmd.OutOrStdout()
			return fieldbus.Run(cmd.Context(), cfg)
		},
	}
	cmd.Flags().DurationVar(&cfg.Duration, "duration", 5*time.Second, "how long each plan runs")
	cmd.Flags().StringVar(&cfg.Only, "only", "", "run only this `plan` (default all)")
	cmd.Flags().StringVar(&cfg.Telegraf, "telegraf", "", "the `binary` of internal/bench/telegraf (required)")
	cmd.Flags().StringVar(&cfg.Leaf, "leaf", "", "the `binary` of cmd/leaf (required)")
	for _, name := range []string{"telegraf", "leaf"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // a flag of that name is not defined
		}
	}
	return cmd
}

func diskCommand() *cobra.Command {
	var cfg fieldbus.DiskConfig
	cmd := &cobra.Command{
		Use: "disk", Short: "Measure what a leaf writes to its disk; needs root", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Out = cmd.OutOrStdout()
			return fieldbus.Disk(cmd.Context(), cfg)
		},
	}
	cmd.Flags().DurationVar(&cfg.Duration, "duration", 30*time.Second, "how long each row is measured")
	cmd.Flags().StringVar(&cfg.Leaf, "leaf", "", "the `binary` of cmd/leaf (required)")
	cmd.Flags().StringVar(&cfg.Server, "server", "", "the `binary` of nats-server (required)")
	for _, name := range []string{"leaf", "server"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // a flag of that name is not defined
		}
	}
	return cmd
}

func collectCommand() *cobra.Command {
	var duration time.Duration
	cmd := &cobra.Command{
		Use: collect, Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return fieldbus.Collect(cmd.Context(), duration, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	cmd.Flags().DurationVar(&duration, "duration", 0, "how long to collect")
	return cmd
}
