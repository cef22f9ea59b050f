package link

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// printTables prints what was measured, as tables of Markdown.
func printTables(out io.Writer, all []result) error {
	w := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	printLines(w, all)
	printOthers(w, "Samples", "wire-B/sample", "json-B/sample", all)
	printIdle(w, all)
	return w.Flush()
}

// of returns the results of a benchmark, without its name.
func of(benchmark string, all []result) (out []result) {
	for _, r := range all {
		if rest, ok := strings.CutPrefix(r.name, benchmark+"/"); ok {
			out = append(out, result{rest, r.metrics})
		}
	}
	return out
}

// value formats a metric, "–" if it is missing.
func (r result) value(unit, format string) string {
	v, ok := r.metrics[unit]
	if !ok {
		return "–"
	}
	return fmt.Sprintf(format, v)
}

func printLines(w io.Writer, all []result) {
	lines, kubelet := of("Line", all), of("KubeletLine", all)
	if len(lines)+len(kubelet) == 0 {
		return
	}
	names := []string{}
	stock, petiole := map[string]result{}, map[string]result{}
	for _, r := range lines {
		petiole[r.name] = r
		names = append(names, r.name)
	}
	for _, r := range kubelet {
		if stock[r.name] = r; !slices.Contains(names, r.name) {
			names = append(names, r.name)
		}
	}
	fmt.Fprint(w, "\n| line, kbit/s\t| round trip\t| lost\t| converged\t| of the line\t| TCP alone\t| of TCP\t| pod\t| drops\t| stock kubelet: converged\t| of the line\t| pod\t|\n")
	fmt.Fprintln(w, strings.Repeat("|---\t", 12)+"|")
	for _, name := range names {
		at, p, k := strings.Split(name+"//", "/"), petiole[name], stock[name]
		converged := k.value("s", "%.0f s")
		if missing := k.metrics["missing"]; missing > 0 {
			converged = fmt.Sprintf("%.0f of 40 missing after 5 min", missing)
		}
		fmt.Fprintf(
			w, "| %s\t| %s\t| %s\t| %s\t| %s\t| %s\t| %s\t| %s\t| %s\t| %s\t| %s\t| %s\t|\n", strings.TrimSuffix(at[0], "-kbit"), at[1], strings.TrimPrefix(at[2], "loss-"),
			p.value("s", "%.0f s"), p.value("%line", "%.0f %%"), p.value("%line-of-tcp", "%.0f %%"), p.value("%tcp", "%.0f %%"), p.value("urgent-s", "%.1f s"), p.value("drops", "%.0f"),
			converged, k.value("%line", "%.0f %%"), k.value("urgent-s", "%.1f s"),
		)
	}
}

// printOthers prints a table of two metrics.
func printOthers(w io.Writer, benchmark, first, second string, all []result) {
	results := of(benchmark, all)
	if len(results) == 0 {
		return
	}
	fmt.Fprintf(w, "\n| %s\t| %s\t| %s\t|\n|---\t|---\t|---\t|\n", benchmark, first, second)
	for _, r := range results {
		fmt.Fprintf(w, "| %s\t| %s\t| %s\t|\n", r.name, r.value(first, "%.0f"), r.value(second, "%.0f"))
	}
}

// perDay is the unit of the figures of an idle link, behind the kind.
const perDay = "-MB/day"

func printIdle(w io.Writer, all []result) {
	results := of("Idle", all)
	kinds := map[string]bool{}
	for _, r := range results {
		for unit := range r.metrics {
			if kind, ok := strings.CutSuffix(unit, perDay); ok && kind != "wire" {
				kinds[kind] = true
			}
		}
	}
	if len(results) == 0 {
		return
	}
	order := []string{"wire"}
	for kind := range kinds {
		order = append(order, kind)
	}
	slices.Sort(order[1:])
	fmt.Fprintf(w, "\n| idle, MB a day\t| %s\t|\n%s|\n", strings.Join(order, "\t| "), strings.Repeat("|---\t", len(order)+1))
	for _, r := range results {
		fmt.Fprintf(w, "| %s", r.name)
		for _, kind := range order {
			fmt.Fprintf(w, "\t| %s", r.value(kind+perDay, "%.2f"))
		}
		fmt.Fprint(w, "\t|\n")
	}
}
