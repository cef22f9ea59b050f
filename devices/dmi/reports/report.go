package reports

import (
	"strconv"
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/dmi/convert"
	pb "github.com/petiole-io/petiole/devices/dmi/v1beta1"
)

const (
	// clockAhead is how far a mapper's clock may be ahead before its time is ignored.
	clockAhead = 2 * time.Second
	// clockBehind is the greatest age of a value; an older time is most likely not in
	// milliseconds and is ignored.
	clockBehind = 24 * time.Hour
)

// The keys of a twin's metadata. KubeEdge's mappers do not send quality and reason.
const (
	metaTimestamp = "timestamp"
	metaQuality   = "quality"
	metaReason    = "reason"
)

// Report is one report of a mapper about a device: values, or a state.
type Report struct {
	readings []devices.Reading
	// observed are the desired values that the mapper has, by point.
	observed map[int]string
	state    string
	at       time.Time // when it was removed from the queue
}

// State returns the report of a state.
func State(state string) Report { return Report{state: state} }

// IsEmpty reports whether there is nothing in a report.
func (r Report) IsEmpty() bool { return len(r.readings) == 0 && len(r.observed) == 0 && r.state == "" }

// Values converts twins to a report. It returns the names that are no points. Readings
// without a time get one when they are delivered, so that their order is kept.
func Values(points []devices.Point, twins []*pb.Twin, now time.Time) (r Report, unknown []string) {
	r = Report{observed: map[int]string{}}
	for _, t := range twins {
		i := pointNamed(points, t.GetPropertyName())
		if i < 0 {
			unknown = append(unknown, strconv.Quote(t.GetPropertyName()))
			continue
		}
		if d := t.GetObservedDesired(); d != nil {
			r.observed[i] = d.GetValue()
		}
		if t.GetReported() != nil {
			r.readings = append(r.readings, reading(i, points[i].Type, t.GetReported(), now))
		}
	}
	return r, unknown
}

func pointNamed(points []devices.Point, name string) int {
	for i := range points {
		if points[i].Name == name {
			return i
		}
	}
	return -1
}

func reading(point int, t v1beta1.PropertyType, p *pb.TwinProperty, now time.Time) devices.Reading {
	r := devices.Reading{Point: point, Quality: devices.Good, Time: readTime(p.GetMetadata()[metaTimestamp], now)}
	switch q := devices.Quality(strings.ToLower(p.GetMetadata()[metaQuality])); q {
	case devices.Bad:
		r.Quality, r.Reason = devices.Bad, p.GetMetadata()[metaReason]
		return r
	case devices.Uncertain:
		r.Quality, r.Reason = devices.Uncertain, p.GetMetadata()[metaReason]
	}
	value, reason := convert.ParseValue(t, p.GetValue())
	if reason != "" {
		r.Quality, r.Reason = devices.Bad, reason
		return r
	}
	r.Value = value
	return r
}

// readTime parses milliseconds since 1970. It returns zero for an implausible time.
func readTime(text string, now time.Time) time.Time {
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}
	}
	t := time.UnixMilli(ms)
	if t.After(now.Add(clockAhead)) || t.Before(now.Add(-clockBehind)) {
		return time.Time{}
	}
	return t
}

// stateReport is a device's state as its mapper reports it; zero: healthy.
type stateReport struct {
	unreachable, unhealthy bool
	reason, message        string
}

// stateReportOf parses a state.
func stateReportOf(state string) stateReport {
	c := stateReport{message: "the mapper reports the device as " + state}
	switch strings.ToLower(strings.TrimSpace(state)) {
	case v1beta1.StateOK, v1beta1.StateOnline:
		return stateReport{}
	case v1beta1.StateUnhealthy:
		c.unhealthy, c.reason = true, "ReportedUnhealthy"
	case v1beta1.StateOffline:
		c.unreachable, c.reason = true, "ReportedOffline"
	case v1beta1.StateDisconnected:
		c.unreachable, c.reason = true, "ReportedDisconnected"
	default:
		c.unreachable, c.reason = true, "ReportedUnknown"
	}
	return c
}

// batch returns a batch with the state.
func (c stateReport) batch(at time.Time) devices.Batch {
	return devices.Batch{Reachable: !c.unreachable, Degraded: c.unhealthy, Reason: c.reason, Message: c.message, Time: at}
}
