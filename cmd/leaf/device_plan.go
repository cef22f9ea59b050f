package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus"
)

// planOutput is the JSON output of leaf device plan.
type planOutput struct {
	Links    []modbus.Plan    `json:"links"`
	Findings []modbus.Finding `json:"findings,omitempty"`
}

// planDevices prints the requests that poll the devices and the load of their links. It
// returns the exit code.
func planDevices(defs []devices.Definition, found []modbus.Finding, o deviceOptions, out, errs io.Writer) int {
	plans, more := modbus.Describe(defs...)
	found = append(found, more...)
	if o.output == "json" {
		if err := encode(out, planOutput{plans, found}); err != nil {
			fmt.Fprintln(errs, "write plan:", err)
			return 1
		}
	} else {
		for _, p := range plans {
			writePlan(out, p)
		}
	}
	if printFindings(found, errs) {
		return 1
	}
	return 0
}

func writePlan(out io.Writer, p modbus.Plan) {
	fmt.Fprintf(out, "LINK %s: %d requests, cycle %s, utilisation %.1f %%\n", p.Endpoint, len(p.Requests), round(p.Cycle), 100*p.Utilisation)
	if p.Utilisation >= 1 {
		fmt.Fprintln(out, "  the periods cannot be kept: the requests take longer than the periods")
	}
	t := table(out)
	fmt.Fprintln(t, "  UNIT\tFUNCTION\tTABLE\tFIRST\tCOUNT\tPERIOD\tTAKES\tPOINTS")
	for _, r := range p.Requests {
		fmt.Fprintf(t, "  %d\t%d\t%s\t%d\t%d\t%s\t%s\t%s\n", r.Unit, r.Function, r.Table, r.Start, r.Count, r.Period, round(r.Estimate), strings.Join(r.Points, " "))
	}
	_ = t.Flush() // an error of out concerns the later writes too
	fmt.Fprintln(t, "  PERIOD\tREQUESTS\tPOINTS\tCYCLE\tUTILISATION")
	for _, c := range p.Classes {
		fmt.Fprintf(t, "  %s\t%d\t%d\t%s\t%.1f %%\n", c.Period, c.Requests, c.Points, round(c.Cycle), 100*c.Utilisation)
	}
	_ = t.Flush()
	if len(p.Holes) > 0 {
		fmt.Fprintln(out, "  never read:", strings.Join(p.Holes, ", "))
	}
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
