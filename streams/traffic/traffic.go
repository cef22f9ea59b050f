// Package traffic is what a leaf tells the bridge of the bytes that its link carries, and what the
// bridge answers.
//
// It guarantees that a report that it decodes is within its bounds. The leaf sends reports, the bridge
// writes them to the Site; both import it. It does no I/O.
package traffic

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Request reports what the link carried: the last token of a streams.RequestSubject, a Report that is
// answered by an Answer.
const Request = "traffic"

// The bounds of a Report.
const (
	// MaxDays is the number of days that a leaf and a Site remember.
	MaxDays = 8
	// MaxKinds bounds the kinds of a day.
	MaxKinds = 16
	// MaxBytes bounds the report.
	MaxBytes = 16 << 10
)

// Protocol is the kind of what no message accounts for: the headers of IP and TCP, TLS, and
// the pings, subscriptions and acknowledgements of the two nats-servers.
const Protocol = "protocol"

// kindPattern matches a kind.
var kindPattern = regexp.MustCompile(`^[a-z]{1,32}$`)

// Report is what the link of a site carried, by day.
type Report struct {
	// Days are sorted by date, the newest first. A report may leave out those that are known.
	Days []Day `json:"days,omitempty"`
	// Budget is what the link may carry on one day as far as the leaf knows, 0 for any number of
	// bytes. Level is what waits because of it.
	Budget int64 `json:"budget,omitempty"`
	Level  Level `json:"level,omitempty"`
}

// Level is what a site does not send at the moment because its budget is used. Desired state,
// commands and their results, heartbeats and sessions are never held back.
type Level string

// The levels, each with what the ones before it hold back.
const (
	// Within holds nothing back.
	Within Level = ""
	// SamplesThinned sends the newest sample of each device in ThinInterval.
	SamplesThinned Level = "SamplesThinned"
	// SamplesWait sends no samples and no Events.
	SamplesWait Level = "SamplesWait"
	// ReportsWait sends no status.
	ReportsWait Level = "ReportsWait"
)

// ThinInterval is the time in which SamplesThinned sends one sample of each device.
const ThinInterval = 15 * time.Minute

// The parts of a budget, in percent, from which each level begins.
const (
	thinnedPercent = 75
	samplesPercent = 90
)

// LevelOf returns the level at which so many bytes of a budget are used.
func LevelOf(used uint64, budget int64) Level {
	b := uint64(max(budget, 0))
	switch {
	case b == 0:
		return Within
	case used >= b:
		return ReportsWait
	case used >= b/100*samplesPercent:
		return SamplesWait
	case used >= b/100*thinnedPercent:
		return SamplesThinned
	}
	return Within
}

// Day is what the link carried on one day.
type Day struct {
	// Date is a day in UTC, by the clock of the bridge, such as 2026-11-26.
	Date string `json:"date"`
	// Up and Down are the bytes by kind to and from the hub. Their sum is what the connection
	// carried, as a provider counts it.
	Up   map[string]uint64 `json:"up,omitempty"`
	Down map[string]uint64 `json:"down,omitempty"`
	// Estimated is set if the connection's own bytes were not known for a part of the day: messages
	// count with their size before compression then, and the protocol is missing.
	Estimated bool `json:"estimated,omitempty"`
}

// Bytes returns the sum of a day.
func (d Day) Bytes() (sum uint64) {
	for _, kinds := range []map[string]uint64{d.Up, d.Down} {
		for _, n := range kinds {
			sum += n
		}
	}
	return sum
}

// Merge returns what is known after a later report: its days replace those of the same date, and days
// after its last one go, since the bridge's clock was wrong then.
func (r Report) Merge(later Report) Report {
	if len(later.Days) == 0 {
		return r
	}
	days := map[string]Day{}
	for _, d := range slices.Concat(r.Days, later.Days) {
		if d.Date <= later.Days[0].Date {
			days[d.Date] = d
		}
	}
	r.Budget, r.Level = later.Budget, later.Level
	r.Days = slices.SortedFunc(maps.Values(days), func(a, b Day) int { return strings.Compare(b.Date, a.Date) })
	r.Days = r.Days[:min(len(r.Days), MaxDays)]
	return r
}

// Answer is the bridge's answer to a Report.
type Answer struct {
	// Time is the bridge's clock.
	Time time.Time `json:"time,omitzero"`
	// Budget is what the link may carry on one day, 0 for any number of bytes.
	Budget int64  `json:"budget,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Decode decodes a report. It returns an error if the report exceeds one of the bounds. Counters that
// are too large for the Kubernetes API are reduced.
func Decode(data []byte) (Report, error) {
	var r Report
	if len(data) > MaxBytes {
		return r, fmt.Errorf("report has %d bytes, the limit is %d", len(data), MaxBytes)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("decode report: %w", err)
	}
	return r, r.validate()
}

// validate returns an error for the first field that exceeds its bounds, and reduces counters above
// the largest integer of the Kubernetes API to it.
func (r Report) validate() error {
	if r.Budget < 0 {
		return fmt.Errorf("report has a budget of %d bytes", r.Budget)
	}
	if !slices.Contains([]Level{Within, SamplesThinned, SamplesWait, ReportsWait}, r.Level) {
		return fmt.Errorf("report has an unknown level %.32q", r.Level)
	}
	if len(r.Days) > MaxDays {
		return fmt.Errorf("report has %d days, the limit is %d", len(r.Days), MaxDays)
	}
	for i, d := range r.Days {
		if _, err := time.Parse(time.DateOnly, d.Date); err != nil {
			return fmt.Errorf("report has a day %.32q, want a date such as 2026-11-26", d.Date)
		}
		if i > 0 && d.Date >= r.Days[i-1].Date {
			return fmt.Errorf("report has %s after %s, want the newest day first", d.Date, r.Days[i-1].Date)
		}
		for _, kinds := range []map[string]uint64{d.Up, d.Down} {
			if len(kinds) > MaxKinds {
				return fmt.Errorf("report of %s has %d kinds, the limit is %d", d.Date, len(kinds), MaxKinds)
			}
			for kind, n := range kinds {
				if !kindPattern.MatchString(kind) {
					return fmt.Errorf("report of %s has a kind %.40q, which does not match %s", d.Date, kind, kindPattern)
				}
				kinds[kind] = min(n, math.MaxInt64/(4*MaxKinds))
			}
		}
	}
	return nil
}
