package breaker

import (
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/petiole-io/petiole/internal/breaker/check"
)

// evidence lists the events that every run must see. Without them an invariant would hold
// because nobody looked.
var evidence = []check.Kind{
	check.Wrote, check.Seen, check.Published, check.BridgeWrote, check.Reported, check.Status, check.Acked, check.Arrived,
}

// checkEvidence returns an error if a history lacks evidence.
func checkEvidence(counts map[check.Kind]int) error {
	var lacks []check.Kind
	for _, k := range evidence {
		if counts[k] == 0 {
			lacks = append(lacks, k)
		}
	}
	if len(lacks) > 0 {
		return fmt.Errorf("judge the run: its history has no %v", lacks)
	}
	return nil
}

// report prints the figures of the run.
func (r *run) report(kinds []*fault) {
	w := tabwriter.NewWriter(r.opts.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nFAULT\tINJECTED\tNOT COUNTED")
	injected, never := 0, 0
	for _, k := range kinds {
		n := r.injected[k.name]
		injected += n
		if n == 0 {
			never++
		}
		fmt.Fprintf(w, "%s\t%d\t%d\n", k.name, n, r.failed[k.name])
	}
	fmt.Fprintf(w, "in all\t%d\t%d kinds never\n", injected, never)
	c := r.record.eventCounts()
	lost, reported := 0, 0
	r.record.withJudge(func(j *check.Judge) { lost, reported = j.Excused() })
	lists, expired, replaced := int64(0), int64(0), int64(0)
	for _, b := range r.world.Bridges {
		if b.Proxy != nil {
			expired, replaced = expired+b.Proxy.Expired.Load(), replaced+b.Proxy.Injected.Load()
			for _, n := range b.Proxy.Listed() {
				lists += n
			}
		}
	}
	fmt.Fprintln(w, "\nWHAT\tFIGURE")
	for _, row := range []struct {
		what  string
		value any
	}{
		{"versions written", c[check.Wrote]},
		{"objects deleted", c[check.Deleted]},
		{"versions seen at sites", c[check.Seen]},
		{"messages seen in DESIRED", c[check.Published]},
		{"writes of bridges", c[check.BridgeWrote]},
		{"pod statuses acknowledged by leaves", c[check.Reported]},
		{"pod statuses seen in the API", c[check.Status]},
		{"telemetry records acknowledged", c[check.Acked]},
		{"refused with an error", c[check.Refused]},
		{"records and writes without an answer", c[check.Unsure]},
		{"arrived", c[check.Arrived]},
		{"lost with a damaged or rolled back disk", lost},
		{"in gap records", reported},
		{"unreadable messages", c[check.Poisoned]},
		{"stores damaged or rolled back", c[check.StoreLost]},
		{"restores of etcd", c[check.Restored]},
		{"LIST requests of bridges", lists},
		{"answers 410", expired},
		{"answers replaced by proxies", replaced},
		{"time to converge, median and most", quantiles(r.converged)},
		{"slowest start of a leaf", r.slowestStart.Round(10 * time.Millisecond)},
		{"most memory of a bridge, MiB", r.memory["bridge"] >> 20},
		{"of the hub", r.memory["hub"] >> 20},
		{"of a leaf", r.memory["leaf"] >> 20},
		{"violations", r.record.violationCount()},
	} {
		fmt.Fprintf(w, "%s\t%v\n", row.what, row.value)
	}
	if err := w.Flush(); err != nil {
		fmt.Fprintln(r.opts.Out, err)
	}
}

func quantiles(d []time.Duration) string {
	if len(d) == 0 {
		return "-"
	}
	s := slices.Sorted(slices.Values(d))
	return fmt.Sprintf("%s, %s", s[len(s)/2].Round(10*time.Millisecond), s[len(s)-1].Round(10*time.Millisecond))
}
