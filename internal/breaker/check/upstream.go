package check

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/petiole-io/petiole/streams"
)

// siteTelemetry is the leaf's stream of telemetry.
const siteTelemetry = "SITE_TELEMETRY"

// upstream judges I11 and I22: each record that the leaf acknowledged is at the hub at
// least once, the first occurrences of one source in the order in which they were
// produced, or a gap record says that it is missing. What was lost with a disk that was
// rolled back to an older copy, or in a stream that was damaged, is counted and no
// violation: nothing at the site could know of it. A gap record with the reason lost is
// right only after such a damage.
type upstream struct {
	sources map[string]*source
	gaps    map[string][]gap
	damages map[string][]damage
	// lost and reported count the excused records.
	lost, reported int
}

type source struct {
	site    string
	acked   map[int64]ackedRecord
	arrived map[int64]bool
	// unsure are records whose producer got no answer. A server that stood still may store
	// one after others that the producer sent meanwhile over another connection: what it did
	// not acknowledge has no place in the order.
	unsure map[int64]bool
	newest int64
}

type ackedRecord struct {
	seq uint64
	at  time.Duration
}

type gap struct{ from, to uint64 }

type damage struct{ since, at time.Duration }

func newUpstream() *upstream {
	return &upstream{sources: map[string]*source{}, gaps: map[string][]gap{}, damages: map[string][]damage{}}
}

func (u *upstream) source(e Event) *source {
	key := e.Site + "/" + e.Source
	s := u.sources[key]
	if s == nil {
		s = &source{site: e.Site, acked: map[int64]ackedRecord{}, arrived: map[int64]bool{}, unsure: map[int64]bool{}}
		u.sources[key] = s
	}
	return s
}

func (u *upstream) observe(e Event) []Violation {
	switch e.Kind {
	case Acked:
		s := u.source(e)
		if !s.arrived[e.N] {
			s.acked[e.N] = ackedRecord{e.Seq, e.At}
		}
	case Unsure:
		u.source(e).unsure[e.N] = true
	case Arrived:
		s := u.source(e)
		if s.arrived[e.N] {
			return nil
		}
		s.arrived[e.N] = true
		delete(s.acked, e.N)
		if e.N < s.newest && !s.unsure[e.N] {
			return violation("I11", "record %d of %s at %s arrives after record %d", e.N, e.Source, e.Site, s.newest)
		}
		s.newest = max(s.newest, e.N)
	case GapReported:
		if e.Stream == siteTelemetry {
			u.gaps[e.Site] = append(u.gaps[e.Site], gap{e.From, e.To})
			if e.What == streams.GapLost && !u.mayBeLost(e) {
				return violation("I11", "records %d to %d of %s are reported as lost, and nothing was damaged since they were stored", e.From, e.To, e.Site)
			}
		}
	case StoreLost:
		if e.Stream == "" || e.Stream == siteTelemetry {
			u.damages[e.Site] = append(u.damages[e.Site], damage{e.Since, e.At})
		}
	}
	return nil
}

// mayBeLost reports whether the site's stream was damaged after each record of a gap was stored.
func (u *upstream) mayBeLost(e Event) bool {
	var last time.Duration
	for _, d := range u.damages[e.Site] {
		last = max(last, d.at)
	}
	for _, s := range u.sources {
		for _, r := range s.acked {
			if s.site == e.Site && e.From <= r.seq && r.seq <= e.To && r.at > last {
				return false
			}
		}
	}
	return len(u.damages[e.Site]) > 0
}

// missing returns the acknowledged records that have not arrived and are not excused, by
// source.
func (u *upstream) missing() map[string][]int64 {
	out := map[string][]int64{}
	u.lost, u.reported = 0, 0
	for key, s := range u.sources {
		for n, r := range s.acked {
			switch {
			case slices.ContainsFunc(u.gaps[s.site], func(g gap) bool { return g.from <= r.seq && r.seq <= g.to }):
				u.reported++
			case slices.ContainsFunc(u.damages[s.site], func(d damage) bool { return r.at >= d.since && r.at <= d.at }):
				u.lost++
			default:
				out[key] = append(out[key], n)
			}
		}
	}
	return out
}

func (u *upstream) finish() []Violation {
	var all []Violation
	missing := u.missing()
	for _, key := range slices.Sorted(maps.Keys(missing)) {
		n := missing[key]
		slices.Sort(n)
		all = append(all, violation("I11", "%d acknowledged records of %s have not arrived: %s", len(n), key, shorten(n))...)
	}
	return all
}

func shorten(n []int64) string {
	var words []string
	for _, v := range n[:min(len(n), 10)] {
		words = append(words, fmt.Sprint(v))
	}
	if len(n) > 10 {
		words = append(words, "…")
	}
	return strings.Join(words, ", ")
}

// Missing returns the number of acknowledged records that have not arrived and are not excused.
func (j *Judge) Missing() int {
	n := 0
	for _, c := range j.checkers {
		if u, ok := c.(*upstream); ok {
			for _, m := range u.missing() {
				n += len(m)
			}
		}
	}
	return n
}

// Excused returns the number of acknowledged records that were lost with a damaged or rolled back
// store, and of those in a gap record.
func (j *Judge) Excused() (lost, reported int) {
	for _, c := range j.checkers {
		if u, ok := c.(*upstream); ok {
			u.missing()
			return u.lost, u.reported
		}
	}
	return 0, 0
}
