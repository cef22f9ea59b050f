package bench

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// row is one latency, measured at both nodes.
type row struct {
	what           string
	stock, petiole []time.Duration
	// goal bounds Petiole's p50 as a multiple of the stock kubelet's; 0: none.
	goal float64
	// before is the stock kubelet's figure on the machine of the baseline, kubeedge
	// KubeEdge's there.
	before   string
	kubeedge time.Duration
}

func printLatency(out io.Writer, rows []row) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\n\tstock p50 / p99\tPetiole p50 / p99\tratio p50\tgoal\tstock, baseline\tKubeEdge, baseline")
	for _, r := range rows {
		ratio := float64(quantile(r.petiole, 0.5)) / float64(quantile(r.stock, 0.5))
		goal, verdict := "-", ""
		if r.goal > 0 {
			goal, verdict = fmt.Sprintf("≤ %.1f×", r.goal), " met"
			if ratio > r.goal {
				verdict = " MISSED"
			}
		}
		before, kubeedge := "-", "-"
		if r.before != "" {
			before = r.before + " s"
		}
		if r.kubeedge > 0 {
			kubeedge = seconds(r.kubeedge)
		}
		fmt.Fprintf(w, "%s (n=%d)\t%s\t%s\t%.2f×\t%s%s\t%s\t%s\n", r.what, len(r.petiole), pair(r.stock), pair(r.petiole), ratio, goal, verdict, before, kubeedge)
	}
	w.Flush()
}

func pair(d []time.Duration) string {
	if len(d) == 1 {
		return seconds(d[0])
	}
	return seconds(quantile(d, 0.5)) + " / " + seconds(quantile(d, 0.99))
}

func seconds(d time.Duration) string {
	if d < 100*time.Millisecond {
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	}
	return fmt.Sprintf("%.3f s", d.Seconds())
}

// quantile is the smallest value that at least the fraction q of d does not exceed. d
// must not be empty.
func quantile(d []time.Duration, q float64) time.Duration {
	sorted := slices.Clone(d)
	slices.Sort(sorted)
	i := int(q*float64(len(sorted))+0.999999) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}
