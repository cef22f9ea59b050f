package bench

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/petiole-io/petiole/internal/e2e/rig"
)

// FootprintConfig configures Footprint.
type FootprintConfig struct {
	Config
	// Duration is the time for which the link is measured, once idle and once with pods.
	// A kubelet reports its whole status once or twice in 5 minutes.
	Duration time.Duration
}

const footprintPods = 5

// sample is the cost of one node in one state.
type sample struct {
	sum  rig.Memory
	each map[string]rig.Memory
	// perDay are bytes on the link.
	perDay float64
}

// Footprint measures memory and idle traffic of both nodes, without and with 5 pods, and
// prints one table.
func Footprint(ctx context.Context, cfg FootprintConfig) error {
	return run(ctx, cfg.Config, func(ctx context.Context, b *bench) error {
		idle, err := b.footprint(ctx, "without pods", cfg.Duration)
		if err != nil {
			return err
		}
		for _, n := range b.nodes {
			var pods []*corev1.Pod
			for i := range footprintPods {
				pods = append(pods, b.pod(n, fmt.Sprintf("idle-%s-%d", n.name, i), true))
			}
			if _, err := b.createAndAwait(ctx, pods...); err != nil {
				return err
			}
		}
		busy, err := b.footprint(ctx, fmt.Sprintf("with %d pods", footprintPods), cfg.Duration)
		if err != nil {
			return err
		}
		b.printFootprint(idle, busy, cfg.Duration)
		return b.clear(ctx)
	})
}

// footprint measures both nodes at the same time.
func (b *bench) footprint(ctx context.Context, state string, duration time.Duration) ([]sample, error) {
	b.say("%s: settling %s, then watching the link for %s…", state, settle, duration)
	if err := wait(ctx, settle); err != nil {
		return nil, err
	}
	before := make([]int64, len(b.nodes))
	start := time.Now()
	for i, n := range b.nodes {
		var err error
		if before[i], err = n.linkBytes(); err != nil {
			return nil, err
		}
	}
	if err := wait(ctx, duration); err != nil {
		return nil, err
	}
	out := make([]sample, len(b.nodes))
	for i, n := range b.nodes {
		after, err := n.linkBytes()
		if err != nil {
			return nil, err
		}
		out[i].perDay = float64(after-before[i]) * float64(24*time.Hour) / float64(time.Since(start))
		if out[i].sum, out[i].each, err = n.memory(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (b *bench) printFootprint(idle, busy []sample, duration time.Duration) {
	w := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\nMiB\tstate\tanonymous\ttotal RSS\tPSS\t\n")
	for i, n := range b.nodes {
		for _, s := range []struct {
			state string
			sample
		}{{"no pods", idle[i]}, {fmt.Sprint(footprintPods, " pods"), busy[i]}} {
			for _, name := range slices.Sorted(maps.Keys(s.each)) {
				memoryRow(w, n.label+": "+name, s.state, s.each[name], "")
			}
			if len(s.each) > 1 {
				memoryRow(w, n.label+": together", s.state, s.sum, verdict(s.sum))
			}
		}
	}
	fmt.Fprintln(w, "KubeEdge, baseline\tno pods\t22.6\t113.0\t-\t\nKubeEdge, baseline\t5 pods\t29.5\t121.0\t-\t")
	w.Flush()

	w = tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\nlink, both directions, %s each, MB/day\tno pods\t5 pods\tgoal\n", duration)
	for i, n := range b.nodes {
		goal := "-"
		if i > 0 {
			goal = "≤ 12 met"
			if max(idle[i].perDay, busy[i].perDay) > 12e6 {
				goal = "≤ 12 MISSED"
			}
		}
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%s\n", n.label, idle[i].perDay/1e6, busy[i].perDay/1e6, goal)
	}
	fmt.Fprintln(w, "stock kubelet, baseline\t18.8\t29.9\t-\nKubeEdge, baseline\t48.9\t45.9\t-")
	w.Flush()
}

func memoryRow(w io.Writer, name, state string, m rig.Memory, note string) {
	mib := func(n int64) string { return fmt.Sprintf("%.1f", float64(n)/(1<<20)) }
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", name, state, mib(m.Anonymous), mib(m.RSS), mib(m.PSS), note)
}

// verdict compares with the goals. PSS is smaller than RSS by the pages of the same programs that
// other sites of the lab run.
func verdict(m rig.Memory) string {
	out := "goals: anonymous ≤ 55 met"
	if m.Anonymous > 55<<20 {
		out = "goals: anonymous ≤ 55 MISSED"
	}
	if m.RSS > 130<<20 {
		return out + ", total ≤ 130 MISSED"
	}
	return out + ", total ≤ 130 met"
}
