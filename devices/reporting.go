package devices

import (
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// Reporting says when a property's reported value is news for the DeviceStatus. It
// bounds nothing but that: every sample is telemetry. Its settings stand among those
// of the property's visitor, or of the device's protocol as defaults for all of its
// properties; times are in milliseconds:
//
//	reportDeadband 0         the least change that is news, in the property's unit
//	reportDeadbandPercent 0  the same in percent of the value that was reported last;
//	                         the wider of the two counts
//	reportHeartbeat 300000   the longest silence about a value that is read and does
//	                         not change; 0: for ever
//	staleAfter               after how long without a reading a good value becomes
//	                         uncertain; 0: never; default ten collectCycles, at least
//	                         a minute
//	driftPolicy once         a DriftPolicy
type Reporting struct {
	Deadband, DeadbandPercent float64
	Heartbeat, StaleAfter     time.Duration
}

// StateReporting says how a device's state is reported. It comes from stateReport,
// or where that is absent from reportToCloud and reportCycle in Device.status, as in
// KubeEdge up to 1.22; and from the setting statusInterval among those of the
// protocol: the shortest time between two statuses of the device in milliseconds,
// when it is longer than the host's.
type StateReporting struct {
	// Hidden leaves state and last online time out: reportToCloud is there and false.
	Hidden bool
	// Cycle is how often they are repeated when nothing changes; default 5 min, at
	// least 10 s, because a change is reported at once.
	Cycle time.Duration
	// Interval is the shortest time between two statuses; zero: the host's.
	Interval time.Duration
}

const (
	defaultHeartbeat = 5 * time.Minute
	shortestStatus   = 10 * time.Second
	shortestStale    = time.Minute
	longestSetting   = int64(365 * 24 * time.Hour / time.Millisecond)
)

// The settings that this package reads. They are kept from drivers, for which they
// would be unknown ones.
var propertySettings = []string{"reportDeadband", "reportDeadbandPercent", "reportHeartbeat", "staleAfter", "driftPolicy"}

const statusIntervalSetting = "statusInterval"

// reportingOf reads a property's settings. What is wrong keeps its default.
func reportingOf(cycle time.Duration, device, property Settings) (Reporting, DriftPolicy, error) {
	r := Merge(device, property).Read()
	stale := max(10*cycle, shortestStale)
	out := Reporting{
		Deadband:        r.Float(0, "reportDeadband"),
		DeadbandPercent: r.Float(0, "reportDeadbandPercent"),
		Heartbeat:       milliseconds(r, defaultHeartbeat, "reportHeartbeat"),
		StaleAfter:      milliseconds(r, stale, "staleAfter"),
	}
	for name, band := range map[string]*float64{"reportDeadband": &out.Deadband, "reportDeadbandPercent": &out.DeadbandPercent} {
		if *band < 0 {
			r.Fail(name, fmt.Sprintf("%g is negative", *band))
			*band = 0
		}
	}
	policies := []string{string(DriftOnce), string(DriftEnforce), string(DriftObserve)}
	drift := DriftPolicy(r.Choice(string(DriftOnce), policies, "driftPolicy"))
	return out, drift, r.Err()
}

func milliseconds(r *Reader, def time.Duration, name string) time.Duration {
	return time.Duration(r.Int(int64(def/time.Millisecond), 0, longestSetting, name)) * time.Millisecond
}

// stateReportingOf reads how a device's state is reported. What is wrong keeps its
// default.
func stateReportingOf(d *v1beta1.Device, config Settings) (StateReporting, error) {
	c := config.Read()
	out := StateReporting{Cycle: defaultHeartbeat, Interval: milliseconds(c, 0, statusIntervalSetting)}
	cycle := int64(0)
	if s := d.Spec.StateReport; s != nil {
		out.Hidden, cycle = !s.ReportToCloud, s.ReportCycle
	} else if d.Status != nil {
		r := Merge(d.Status.Data).Read()
		out.Hidden = !r.Bool(true, "reportToCloud")
		cycle = r.Int(0, 0, longestSetting, "reportCycle")
	}
	if cycle > 0 {
		out.Cycle = max(time.Duration(min(cycle, longestSetting))*time.Millisecond, shortestStatus)
	}
	return out, c.Err()
}

// split takes the named settings out of others.
func (s Settings) split(names ...string) (named, rest Settings) {
	named, rest = Settings{}, Settings{}
	for k, v := range s {
		if slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, k) }) {
			named[k] = v
		} else {
			rest[k] = v
		}
	}
	return named, rest
}

// exceeds tells whether a value differs from the one that was reported last by more
// than the dead-bands. Only numbers have bands.
func (r Reporting) exceeds(told, now Value) bool {
	if told == now {
		return false
	}
	was, okWas := told.Float64()
	is, okIs := now.Float64()
	band := max(r.Deadband, math.Abs(was)*r.DeadbandPercent/100)
	if !okWas || !okIs || band == 0 {
		return true
	}
	return math.Abs(is-was) > band
}

// repeatAfter is after how long a status is repeated that has nothing new but times:
// the shortest of what the device and its reported points ask for. Names spread it
// over its last quarter, so that devices which start together do not report together.
func (d Definition) repeatAfter() time.Duration {
	shortest := d.Report.Cycle
	for _, p := range d.Points {
		if h := p.Reporting.Heartbeat; p.Report && h > 0 && (shortest == 0 || h < shortest) {
			shortest = h
		}
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(d.Device.String())) // never fails
	return shortest - time.Duration(uint64(h.Sum32())*uint64(shortest/4)>>32)
}
