package devices

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// The dead-band is about numbers: what is within it is not news, what is beyond is.
func TestExceeds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Reporting{Deadband: rapid.Float64Range(0, 10).Draw(t, "absolute"), DeadbandPercent: rapid.Float64Range(0, 50).Draw(t, "percent")}
		was, is := rapid.Float64Range(-100, 100).Draw(t, "was"), rapid.Float64Range(-100, 100).Draw(t, "is")
		want := is != was && math.Abs(is-was) > max(r.Deadband, math.Abs(was)*r.DeadbandPercent/100)
		if got := r.Exceeds(Float(was), Float(is)); got != want {
			t.Fatalf("%v: %g after %g: %v", r, is, was, got)
		}
		if !r.Exceeds(String("a"), String("b")) || !r.Exceeds(Value{}, Float(is)) || r.Exceeds(Bool(true), Bool(true)) {
			t.Fatal("what is no number has no band")
		}
	})
}

// stateReport, or what stood in Device.status before KubeEdge 1.23, says whether and
// how often the state is reported.
func TestStateReporting(t *testing.T) {
	for name, c := range map[string]struct {
		report *v1beta1.DeviceStateReport
		status map[string]any
		want   StateReporting
	}{
		"default":      {nil, nil, StateReporting{Cycle: 5 * time.Minute}},
		"hidden":       {&v1beta1.DeviceStateReport{}, map[string]any{"reportToCloud": true}, StateReporting{Hidden: true, Cycle: 5 * time.Minute}},
		"each minute":  {&v1beta1.DeviceStateReport{ReportToCloud: true, ReportCycle: 60_000}, nil, StateReporting{Cycle: time.Minute}},
		"too often":    {&v1beta1.DeviceStateReport{ReportToCloud: true, ReportCycle: 100}, nil, StateReporting{Cycle: 10 * time.Second}},
		"nanoseconds":  {&v1beta1.DeviceStateReport{ReportToCloud: true, ReportCycle: math.MaxInt64}, nil, StateReporting{Cycle: 365 * 24 * time.Hour}},
		"1.22":         {nil, map[string]any{"reportToCloud": true, "reportCycle": 20_000}, StateReporting{Cycle: 20 * time.Second}},
		"1.22, hidden": {nil, map[string]any{"reportToCloud": false}, StateReporting{Hidden: true, Cycle: 5 * time.Minute}},
		"only twins":   {nil, map[string]any{"twins": []any{}}, StateReporting{Cycle: 5 * time.Minute}},
	} {
		d := &v1beta1.Device{}
		d.Spec.StateReport = c.report
		if c.status != nil {
			d.Status = &v1beta1.CustomizedValue{Data: c.status}
		}
		got, err := stateReportingOf(d, Settings{})
		if err != nil || got != c.want {
			t.Errorf("%s: %+v %v", name, got, err)
		}
	}
}
