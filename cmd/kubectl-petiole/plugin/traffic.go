package plugin

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
)

func newTrafficCommand(s *session) *cobra.Command {
	var o *output
	var all bool
	cmd := &cobra.Command{
		Use:   "traffic SITE",
		Short: "Show what the link of a site carried, by day and kind",
		Long: `Show the bytes of a site's link: those of the last day by kind, and the totals of the days
before. A day is one in UTC by the bridge's clock. The gateway counts, and reports when its
link comes up, and every hour (every six hours with link.profile: metered).

The total is what the connection carried as a provider counts it, with TLS and the headers
of IP and TCP. The division among kinds is an estimate: messages are counted before
compression, and what they do not account for is protocol.

  desired     objects for the site
  reported    status of pods, nodes and devices, and Events
  telemetry   samples and audit records of devices
  heartbeats  of the site
  requests    questions of the gateway to the bridge: tokens, positions, comparisons
  commands    to devices
  sessions    of the kubelet API: logs, exec, port-forward
  protocol    headers, TLS, pings and acknowledgements`,
		Example: `  # The last day by kind, and the totals of the days before
  kubectl petiole traffic plant-a

  # Each day by kind
  kubectl petiole traffic plant-a --all`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: s.completeSites(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return showTraffic(cmd.Context(), s, o, args[0], all)
		},
	}
	o = newOutput(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "Show the kinds of each day")
	return cmd
}

func showTraffic(ctx context.Context, s *session, o *output, name string, all bool) error {
	if err := o.check(); err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	site, err := s.site(ctx, c, name)
	if err != nil {
		return err
	}
	switch o.format() {
	case "", "wide":
		return printTraffic(s, o, site, all)
	case "name":
		_, err := fmt.Fprintln(s.Out, "site.petiole.dev/"+site.Name)
		return err
	}
	p, err := o.printer()
	if err != nil {
		return err
	}
	return p.PrintObj(site, s.Out)
}

func printTraffic(s *session, o *output, site *v1alpha1.Site, all bool) error {
	t := site.Status.Traffic
	if t == nil {
		_, err := fmt.Fprintf(s.ErrOut, "Site %s has not reported what its link carried.\n", site.Name)
		return err
	}
	columns := []metav1.TableColumnDefinition{column("Date"), column("Kind"), column("Up"), column("Down"), column("Total"), column("Share")}
	var rows []metav1.TableRow
	estimated := ""
	for i, d := range t.Days {
		up, down := int64(0), int64(0)
		for _, k := range d.Kinds {
			up, down = up+k.Up, down+k.Down
		}
		for _, k := range d.Kinds {
			if i == 0 || all {
				rows = append(rows, row(d.Date, k.Kind, k.Up, k.Down, up+down))
			}
		}
		rows = append(rows, row(d.Date, "total", up, down, up+down))
		if d.Estimated {
			estimated += " " + d.Date
		}
	}
	if err := s.table(o, columns, rows); err != nil || o.noHeaders {
		return err
	}
	if estimated != "" {
		fmt.Fprintf(s.ErrOut, "\nThe connection's own bytes were not known all day; messages count before compression:%s\n", estimated)
	}
	_, err := fmt.Fprintf(s.ErrOut, "\n%s%s on %s, reported %s ago.\n", t.Bytes.String(), ofBudget(t), t.Date, age(&t.Time))
	return err
}

func row(date, kind string, up, down, sum int64) metav1.TableRow {
	share := none
	if sum > 0 {
		share = fmt.Sprintf("%.0f%%", 100*float64(up+down)/float64(sum))
	}
	return metav1.TableRow{Cells: []any{date, kind, decimal(up), decimal(down), decimal(up + down), share}}
}

// decimal formats a number of bytes as quantities do, such as 1.2M.
func decimal(n int64) string {
	f := float64(n)
	for _, unit := range []string{"", "k", "M"} {
		if f < 1000 {
			if unit == "" {
				return fmt.Sprint(n)
			}
			return fmt.Sprintf("%.1f%s", f, unit)
		}
		f /= 1000
	}
	return fmt.Sprintf("%.1fG", f)
}
