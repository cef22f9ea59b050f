package fieldbus

import (
	"slices"
	"syscall"
	"time"
)

// result is the result of a collector's run; times are microseconds.
type result struct {
	Values int64 `json:"values"`
	// Wrong counts the values that were not those of their points.
	Wrong int64 `json:"wrong"`
	// Errors counts failed reads: passes at Telegraf, values here.
	Errors int64 `json:"errors"`
	// Cycles are the durations of the passes over a target.
	Cycles []int64 `json:"cycles"`
	// Writes are the latencies of the writes.
	Writes []int64 `json:"writes,omitempty"`
	// CPU is the processor time, RSSKiB the largest resident set.
	CPU     int64   `json:"cpu"`
	RSSKiB  int64   `json:"rssKiB"`
	Seconds float64 `json:"seconds"`
	Last    string  `json:"last,omitempty"`
}

func (r result) rate() float64 { return float64(r.Values) / r.Seconds }

// perValue returns the processor time of one value.
func (r result) perValue() time.Duration {
	if r.Values == 0 {
		return 0
	}
	return time.Duration(float64(r.CPU) / float64(r.Values) * float64(time.Microsecond))
}

// cores returns the number of processor cores that were busy.
func (r result) cores() float64 { return float64(r.CPU) / 1e6 / r.Seconds }

// quantile returns the smallest time that at least the fraction q does not exceed, 0 of none.
func quantile(us []int64, q float64) time.Duration {
	if len(us) == 0 {
		return 0
	}
	sorted := slices.Clone(us)
	slices.Sort(sorted)
	i := int(q*float64(len(sorted))+0.999999) - 1
	return time.Duration(sorted[min(max(i, 0), len(sorted)-1)]) * time.Microsecond
}

// usage returns the processor time so far in microseconds, and the largest resident set in KiB.
func usage() (cpu, rss int64, err error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, 0, err
	}
	return (u.Utime.Sec+u.Stime.Sec)*1e6 + u.Utime.Usec + u.Stime.Usec, u.Maxrss, nil
}
