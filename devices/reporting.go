package devices

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// Reporting decides when a change of a property's value is reported in the DeviceStatus. It
// bounds nothing else: every sample is telemetry. The settings are among those of the
// property's visitor, or of the device's protocol as defaults for all of its properties;
// times are in milliseconds:
//
//	reportDeadband 0         the least change that is reported, in the property's unit
//	reportDeadbandPercent 0  the same in percent of the value that was reported last;
//	                         the wider of the two applies
//	reportHeartbeat 300000   the longest time between two reports of a value that is read
//	                         and does not change; 0: unbounded
//	staleAfter               after how long without a reading a good value becomes
//	                         uncertain; 0: never; default ten collectCycles, at least
//	                         a minute
//	driftPolicy once         a DriftPolicy
//	rewriteEvery 0           a desired value is written again after this time, for devices that
//	                         fall back without it; 0: it is written once; 100 at least
//	writeOrder 0             of the desired values that wait, those with a lower number are
//	                         written first
//	writeGroup               desired values of properties with the same name are written with
//	                         one request, if the driver can
type Reporting struct {
	Deadband, DeadbandPercent float64
	Heartbeat, StaleAfter     time.Duration
}

// Writing decides how desired values of a property are written. Its settings are those of
// Reporting.
type Writing struct {
	// Drift is the default policy of desired values.
	Drift DriftPolicy
	// Rewrite is the time after which a desired value is written again; zero: never.
	Rewrite time.Duration
	// Order is the place of the property among those whose desired values wait.
	Order int
	// group is Point.Group.
	group string
}

const (
	shortestRewrite = 100 * time.Millisecond
	mostWriteOrder  = 1000
)

// writingOf reads a property's settings. Invalid ones get their defaults.
func writingOf(r *Reader) Writing {
	policies := []string{string(DriftOnce), string(DriftEnforce), string(DriftObserve)}
	w := Writing{
		Drift:   DriftPolicy(r.Choice(string(DriftOnce), policies, "driftPolicy")),
		Rewrite: milliseconds(r, 0, "rewriteEvery"), Order: int(r.Int(0, -mostWriteOrder, mostWriteOrder, "writeOrder")),
		group: r.Text("", "writeGroup"),
	}
	if w.Rewrite > 0 && w.Rewrite < shortestRewrite {
		r.Fail("rewriteEvery", fmt.Sprintf("%d is shorter than %d ms", w.Rewrite.Milliseconds(), shortestRewrite.Milliseconds()))
		w.Rewrite = 0
	}
	return w
}

// StateReporting configures how a device's state is reported. It comes from stateReport, or,
// if that is absent, from reportToCloud and reportCycle in Device.status, as in KubeEdge up
// to 1.22; and from the setting statusInterval of the protocol: the shortest time between
// two statuses of the device in milliseconds, if it is longer than the host's.
type StateReporting struct {
	// Hidden leaves out state and last online time: reportToCloud is present and false.
	Hidden bool
	// Cycle is the period of repeated reports without a change; default 5 min, at least
	// 10 s, since a change is reported at once.
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

// The settings that this package reads. They are not passed to drivers, which would not know
// them.
var propertySettings = []string{"reportDeadband", "reportDeadbandPercent", "reportHeartbeat", "staleAfter", "driftPolicy", "rewriteEvery", "writeOrder", "writeGroup"}

const statusIntervalSetting = "statusInterval"

// reportingOf reads a property's settings. Invalid ones get their defaults.
func reportingOf(cycle time.Duration, device, property Settings) (Reporting, Writing, error) {
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
	writing := writingOf(r)
	return out, writing, r.Err()
}

func milliseconds(r *Reader, def time.Duration, name string) time.Duration {
	return time.Duration(r.Int(int64(def/time.Millisecond), 0, longestSetting, name)) * time.Millisecond
}

// stateReportingOf reads how a device's state is reported. Invalid settings get their
// defaults.
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

// split separates the named settings from the others.
func (s Settings) split(names ...string) (named, rest Settings) {
	named, rest = Settings{}, s
	for k, v := range s {
		if slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, k) }) {
			named[k] = v
		}
	}
	if len(named) > 0 {
		rest = maps.Clone(s)
		for k := range named {
			delete(rest, k)
		}
	}
	return named, rest
}

// Exceeds reports whether a value differs from the one reported last by more than the
// deadbands. Only numbers have deadbands.
func (r Reporting) Exceeds(last, now Value) bool {
	if last == now {
		return false
	}
	was, okWas := last.Float64()
	is, okIs := now.Float64()
	band := max(r.Deadband, math.Abs(was)*r.DeadbandPercent/100)
	if !okWas || !okIs || band == 0 {
		return true
	}
	return math.Abs(is-was) > band
}
