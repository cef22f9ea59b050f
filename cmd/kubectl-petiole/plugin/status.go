package plugin

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
)

func newStatusCommand(s *session) *cobra.Command {
	var o *output
	var watch bool
	cmd := &cobra.Command{
		Use:   "status [SITE]",
		Short: "Show the state of sites: stored, applied, observed",
		Long: `Show how far sites are behind the API server, at the three levels of acknowledgement:
stored (on the site's disk), applied (by the site's node API), observed (the status is
back in the API). For Events use: kubectl events --for site/NAME.

On a terminal the state is coloured: green is as it should be, yellow is catching up, red needs
somebody. The environment variable NO_COLOR switches that off.`,
		Example: `  # All sites
  kubectl petiole status

  # One site in full
  kubectl petiole status plant-a

  # How sites catch up, until Ctrl-C
  kubectl petiole status --watch`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: s.completeSites(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			if watch {
				c, err := s.client()
				if err != nil {
					return err
				}
				return watchSites(cmd.Context(), s, c, o, strings.Join(args, ""))
			}
			return s.status(cmd.Context(), o, args)
		},
	}
	o = newOutput(cmd)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "Show the table again when the state changes, with how far sites have caught up, until interrupted")
	return cmd
}

func (s *session) status(ctx context.Context, o *output, args []string) error {
	if err := o.check(); err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	var all *v1alpha1.SiteList
	var object runtime.Object
	if len(args) == 1 {
		site, err := s.site(ctx, c, args[0])
		if err != nil {
			return err
		}
		if o.format() == "" {
			return s.describe(site, s.leader(ctx, c))
		}
		object, all = site, &v1alpha1.SiteList{Items: []v1alpha1.Site{*site}}
	} else {
		if all, err = s.sites(ctx, c); err != nil {
			return err
		}
		object = all
	}
	switch o.format() {
	case "", "wide":
		return s.printSites(o, all, s.leader(ctx, c))
	case "name":
		for _, site := range all.Items {
			if _, err := fmt.Fprintln(s.Out, "site.petiole.dev/"+site.Name); err != nil {
				return err
			}
		}
		return nil
	}
	p, err := o.printer()
	if err != nil {
		return err
	}
	return p.PrintObj(object, s.Out)
}

func (s *session) printSites(o *output, all *v1alpha1.SiteList, leader string) error {
	if len(all.Items) == 0 {
		_, err := fmt.Fprintln(s.ErrOut, "No sites found.")
		return err
	}
	if err := siteTable(s, o, all, nil, s.Out); err != nil || o.noHeaders {
		return err
	}
	_, err := fmt.Fprintf(s.ErrOut, "\n%s\n", sentence(leader))
	return err
}

// siteTable writes a table of sites, coloured if the output is a terminal. It has a column of how far
// they have caught up if known is not nil.
func siteTable(s *session, o *output, all *v1alpha1.SiteList, known *progress, to io.Writer) error {
	columns := []metav1.TableColumnDefinition{
		column("Name"), column("Connected"), column("Since"), column("Pending"), column("Oldest"), column("Unapplied"), column("Unobserved"), column("State"),
	}
	if known != nil {
		columns = append(columns, column("Progress"))
	}
	columns = append(columns,
		wide("Nodes"), wide("Last-Ack"), wide("Checked"), wide("Resync"), wide("Version"),
	)
	var rows []metav1.TableRow
	for i := range all.Items {
		site := &all.Items[i]
		st := &site.Status
		checked, resync := none, none
		if st.LastCheck != nil {
			checked = st.LastCheck.Outcome + " " + age(&st.LastCheck.Time)
		}
		if st.Resync != nil {
			resync = age(&st.Resync.Time)
		}
		cells := []any{
			site.Name, fmt.Sprint(st.Connected), age(st.Since), fmt.Sprint(st.Pending), age(st.OldestPending),
			fmt.Sprint(st.Unapplied), fmt.Sprint(st.Unobserved), state(st),
		}
		if known != nil {
			cells = append(cells, known.bar(site))
		}
		rows = append(rows, metav1.TableRow{Cells: append(cells, fmt.Sprint(st.Nodes), age(st.LastAck), checked, resync, orNone(st.Version))})
	}
	var table strings.Builder
	if err := printTable(o, columns, rows, &table); err != nil {
		return err
	}
	text := table.String()
	if t := terminalOf(s.Out); t != nil && t.coloured && !o.noHeaders {
		text = paint(text, "STATE", colourOfState)
	}
	_, err := io.WriteString(to, text)
	return err
}

// colourOfState returns the colour of what state returns.
func colourOfState(cell string) colour {
	switch cell {
	case "OK":
		return green
	case "Unknown", "":
		return yellow
	}
	for reason := range strings.SplitSeq(cell, ",") {
		switch reason {
		case v1alpha1.ReasonUnpublished, v1alpha1.ReasonPending, v1alpha1.ReasonUnapplied, v1alpha1.ReasonDiffers, v1alpha1.ReasonNotConfirmed, v1alpha1.ReasonSamplesThinned:
		default:
			return red
		}
	}
	return yellow
}

// colourOfStatus returns the colour of the status of a condition.
func colourOfStatus(status string) colour {
	switch metav1.ConditionStatus(status) {
	case metav1.ConditionTrue:
		return green
	case metav1.ConditionFalse:
		return red
	}
	return yellow
}

// state returns the reasons of the conditions that are not True.
func state(st *v1alpha1.SiteStatus) string {
	if len(st.Conditions) == 0 {
		return "Unknown"
	}
	var reasons []string
	for _, c := range st.Conditions {
		// Connected has the same reason.
		if c.Status != metav1.ConditionTrue && c.Reason != v1alpha1.ReasonNotHeard {
			reasons = append(reasons, c.Reason)
		}
	}
	if len(reasons) == 0 {
		return "OK"
	}
	return strings.Join(reasons, ",")
}

// describe prints one site in full.
func (s *session) describe(site *v1alpha1.Site, leader string) error {
	st := &site.Status
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0)
	line := func(key, format string, args ...any) {
		fmt.Fprintf(w, "%s:\t%s\n", key, printable(fmt.Sprintf(format, args...)))
	}
	line("Name", "%s", site.Name)
	if site.Spec.Description != "" {
		line("Description", "%s", site.Spec.Description)
	}
	line("Connected", "%t%s", st.Connected, phrase(", for %s", st.Since, ""))
	line("Nodes", "%d", st.Nodes)
	line("Stored", "%d objects pending%s; %s", st.Pending, phrase(", the oldest for %s", st.OldestPending, ""), phrase("last acknowledgement %s ago", st.LastAck, "no acknowledgement yet"))
	line("Applied", "%d stored messages not applied", st.Unapplied)
	line("Observed", "%d pods and devices not observed", st.Unobserved)
	line("Upward", "%d reports and %d records wait at the site; %d dropped", st.ReportedPending, st.TelemetryPending, st.Dropped)
	if t := st.Traffic; t != nil {
		line("Link", "%s%s on %s (UTC), reported %s ago", t.Bytes.String(), ofBudget(t), t.Date, age(&t.Time))
	}
	line("Quarantined", "%d", st.Quarantined)
	if c := st.LastCheck; c != nil {
		line("Compared", "%s, %s ago; %d mismatches so far", c.Outcome, age(&c.Time), st.Mismatches)
	} else {
		line("Compared", "not yet")
	}
	if r := st.Resync; r != nil && !r.Time.IsZero() {
		line("Resync", "%s ago: %s", age(&r.Time), r.Reason)
	} else {
		line("Resync", "never")
	}
	if asked := site.Annotations[v1alpha1.ResyncAnnotation]; asked != "" && (st.Resync == nil || st.Resync.Requested != asked) {
		line("", "requested, not started yet")
	}
	line("Leaf", "version %s, boot %s", orNone(st.Version), orNone(st.Boot))
	line("Epoch", "%s, term %d", orNone(st.Epoch), st.Term)
	line("Bridge", "%s", leader)
	fmt.Fprintln(w, "Conditions:")
	fmt.Fprintln(w, "  TYPE\tSTATUS\tFOR\tREASON\tMESSAGE")
	for _, c := range st.Conditions {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\n", c.Type, c.Status, age(&c.LastTransitionTime), c.Reason, printable(c.Message))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	shown := text.String()
	if t := terminalOf(s.Out); t != nil && t.coloured {
		shown = paint(shown, "STATUS", colourOfStatus)
	}
	_, err := io.WriteString(s.Out, shown)
	return err
}

// phrase puts the time since t into a format, or returns otherwise if t is not known.
func phrase(format string, t *metav1.Time, otherwise string) string {
	if t == nil || t.IsZero() {
		return otherwise
	}
	return fmt.Sprintf(format, age(t))
}

// ofBudget names the budget of a link, if it has one.
func ofBudget(t *v1alpha1.SiteTraffic) string {
	if t.DailyBytes == nil {
		return ""
	}
	return " of " + t.DailyBytes.String()
}

// sentence capitalizes s and adds a full stop.
func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}
