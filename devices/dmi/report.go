package dmi

import (
	"strconv"
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	pb "github.com/petiole-io/petiole/devices/dmi/v1beta1"
)

const (
	// clockAhead is how far a mapper's clock may be ahead before its time is not used.
	clockAhead = 2 * time.Second
	// clockBehind is how long ago a value may have been read; an older time is taken for
	// one that is not in milliseconds.
	clockBehind = 24 * time.Hour
)

// The keys of a twin's metadata. Quality and reason are ours; mappers of KubeEdge do
// not send them.
const (
	metaTimestamp = "timestamp"
	metaQuality   = "quality"
	metaReason    = "reason"
)

// report is what a mapper tells of a device at once: values, or a state.
type report struct {
	readings []devices.Reading
	// observed are the desired values that the mapper had, by point.
	observed map[int]string
	state    string
	at       time.Time // when it was taken out of the queue
}

// readTwins makes a report of twins. Names that are no points are answered. Readings
// whose time the mapper does not tell have none yet: they get it in the order in which
// they are delivered.
func readTwins(points []devices.Point, twins []*pb.Twin, now time.Time) (r report, unknown []string) {
	r = report{observed: map[int]string{}}
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
	value, reason := parseValue(t, p.GetValue())
	if reason != "" {
		r.Quality, r.Reason = devices.Bad, reason
		return r
	}
	r.Value = value
	return r
}

// readTime reads milliseconds since 1970; a time that cannot be is none.
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

// claim is what a mapper says of a device's state; zero: that it is well.
type claim struct {
	away, unwell    bool
	reason, message string
}

// claimOf reads a state.
func claimOf(state string) claim {
	c := claim{message: "the mapper reports the device as " + state}
	switch strings.ToLower(strings.TrimSpace(state)) {
	case v1beta1.StateOK, v1beta1.StateOnline:
		return claim{}
	case v1beta1.StateUnhealthy:
		c.unwell, c.reason = true, "ReportedUnhealthy"
	case v1beta1.StateOffline:
		c.away, c.reason = true, "ReportedOffline"
	case v1beta1.StateDisconnected:
		c.away, c.reason = true, "ReportedDisconnected"
	default:
		c.away, c.reason = true, "ReportedUnknown"
	}
	return c
}

// batch is a batch that tells the claim.
func (c claim) batch(at time.Time) devices.Batch {
	return devices.Batch{Reachable: !c.away, Degraded: c.unwell, Reason: c.reason, Message: c.message, Time: at}
}
