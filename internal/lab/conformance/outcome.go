package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// outcome is what the suite reported of a plan.
type outcome struct {
	plan   plan
	specs  map[string]spec
	around []string
	// ended is the number of containers that were ended before their grace period was over.
	ended  int
	took   time.Duration
	output string
}

// tally counts specs.
type tally struct{ listed, passed, again, failed, unfinished, skipped int }

// count returns the tallies of all specs, and of those that are also Conformance; the names of
// those that failed or did not finish, and how many were skipped for which reason.
func (o outcome) count() (all, conformance tally, failed []string, skipped map[string]int) {
	skipped = map[string]int{}
	note := func(name string, change func(*tally)) {
		change(&all)
		if s, ok := o.specs[name]; ok && s.conformance() || strings.Contains(name, "[Conformance]") {
			change(&conformance)
		}
	}
	for _, name := range o.plan.run {
		note(name, func(t *tally) { t.listed++ })
		s, ran := o.specs[name]
		switch {
		case ran && s.State == statePassed:
			note(name, func(t *tally) { t.passed++ })
			if s.NumAttempts > 1 {
				note(name, func(t *tally) { t.again++ })
			}
		case ran && s.State == stateSkipped:
			note(name, func(t *tally) { t.skipped++ })
			skipped["the suite: "+firstLine(s.Failure.Message)]++
		case ran && s.State != stateInterrupted:
			note(name, func(t *tally) { t.failed++ })
			failed = append(failed, name)
		default:
			note(name, func(t *tally) { t.unfinished++ })
			failed = append(failed, name)
		}
	}
	for name, reason := range o.plan.skipped {
		note(name, func(t *tally) { t.listed++; t.skipped++ })
		skipped[reason]++
	}
	return all, conformance, failed, skipped
}

// print writes the table. It returns an error if a spec failed.
func (o outcome) print(out io.Writer) error {
	all, conformance, failed, skipped := o.count()
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nspecs\tlisted\tpassed\tfailed\tnot finished\tskipped")
	for _, row := range []struct {
		name string
		t    tally
	}{{"all", all}, {"also Conformance", conformance}} {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\n", row.name, row.t.listed, row.t.passed, row.t.failed, row.t.unfinished, row.t.skipped)
	}
	w.Flush()
	if all.again > 0 {
		fmt.Fprintf(&b, "%d of those that passed did so at a second attempt\n", all.again)
	}
	for _, reason := range sorted(skipped) {
		fmt.Fprintf(&b, "skipped %d: %s\n", skipped[reason], reason)
	}
	for _, name := range failed {
		s := o.specs[name]
		if s.State == "" {
			s.State = "not run"
		}
		fmt.Fprintf(&b, "%s after %v: %s\n    %s\n", s.State, s.RunTime.Round(time.Second), name, firstLine(s.Failure.Message))
	}
	for _, a := range o.around {
		fmt.Fprintf(&b, "%s\n", firstLine(a))
	}
	fmt.Fprintf(&b, "took %v; %d containers that ignore SIGTERM were ended early; the output is in %s\n", o.took.Round(time.Second), o.ended, o.output)
	if _, err := io.WriteString(out, b.String()); err != nil {
		return err
	}
	if len(o.around) > 0 {
		return errors.New("the suite failed before or after its specs")
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d specs failed and %d did not finish that are not in the list of skips", all.failed, all.unfinished)
	}
	return nil
}

// firstLine returns the start of a message in one line.
func firstLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	const most = 300
	if len(s) > most {
		return s[:most] + " …"
	}
	return s
}
