package dmi

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/dmi/convert"
	"github.com/petiole-io/petiole/devices/dmi/dmitest"
	"github.com/petiole-io/petiole/devices/dmi/reports"
	pb "github.com/petiole-io/petiole/devices/dmi/v1beta1"
	"github.com/petiole-io/petiole/internal/polltest"
)

func twin(property, value string, metadata ...string) *pb.Twin {
	m := map[string]string{}
	for i := 0; i+1 < len(metadata); i += 2 {
		m[metadata[i]] = metadata[i+1]
	}
	return &pb.Twin{PropertyName: property, Reported: &pb.TwinProperty{Value: value, Metadata: m}}
}

func statusOf(device string, twins ...*pb.Twin) *pb.ReportDeviceStatusRequest {
	return &pb.ReportDeviceStatusRequest{DeviceName: device, DeviceNamespace: "default", ReportedDevice: &pb.DeviceStatus{Twins: twins}}
}

// newReportingRig returns a rig with a mapper that reports only what the test sends.
func newReportingRig(t *testing.T, tune func(*timing), names ...string) (*rig, *fakeMapper, pb.DeviceManagerServiceClient) {
	t.Helper()
	p := newPlant(t, tune)
	m := p.newMapper(newField())
	m.mute = true
	m.start(true)
	p.apply(dmitest.Model())
	for _, n := range names {
		p.apply(dmitest.Pump(n))
	}
	polltest.Eventually(t, "devices at the mapper", func() bool {
		for _, n := range names {
			if m.device(n) == nil {
				return false
			}
		}
		return true
	})
	c, done := dial(t, p.socket())
	t.Cleanup(done)
	return p, m, pb.NewDeviceManagerServiceClient(c)
}

// TestReports: values, times and qualities arrive as they were reported.
func TestReports(t *testing.T) {
	p, _, c := newReportingRig(t, nil, "a")
	at := time.Now().Add(-3 * time.Second).UnixMilli()
	if _, err := c.ReportDeviceStatus(t.Context(), statusOf("a",
		twin("flow", "0.1", "timestamp", strconv.FormatInt(at, 10)), twin("speed", "12.0"), twin("running", "true"))); err != nil {
		t.Fatal(err)
	}
	p.await("values", "a", func(s *v1beta1.DeviceStatus) bool {
		return online(s) && reported("flow", "0.1")(s) && reported("speed", "12")(s) && reported("running", "true")(s)
	})
	if got := p.sink.status("a").Status.Twins[0].Reported.Metadata["timestamp"]; got != strconv.FormatInt(at, 10) {
		t.Errorf("timestamp %s, want %d", got, at)
	}
	for _, x := range []struct {
		twin    *pb.Twin
		quality devices.Quality
		reason  string
	}{
		{twin("flow", "NaN"), devices.Bad, convert.ReasonNotFinite},
		{twin("flow", ""), devices.Bad, convert.ReasonNoValue},
		{twin("flow", "warm"), devices.Bad, convert.ReasonNotValid},
		{twin("flow", "5", "quality", "uncertain", "reason", "SensorOld"), devices.Uncertain, "SensorOld"},
		{twin("flow", "5", "quality", "bad", "reason", "SensorBroken"), devices.Bad, "SensorBroken"},
	} {
		if _, err := c.ReportDeviceStatus(t.Context(), statusOf("a", x.twin)); err != nil {
			t.Fatal(err)
		}
		p.await(fmt.Sprint(x.twin), "a", quality("flow", x.quality, x.reason))
	}
}

// TestReportsAreChecked: what cannot be delivered is answered with a clear error, and
// does not keep the rest from being delivered.
func TestReportsAreChecked(t *testing.T) {
	p, _, c := newReportingRig(t, nil, "a")
	for what, x := range map[string]struct {
		in   *pb.ReportDeviceStatusRequest
		code codes.Code
		text string
	}{
		"unknown device": {statusOf("nobody", twin("flow", "1")), codes.NotFound, "default/nobody is not operated here"},
		"no name":        {statusOf("", twin("flow", "1")), codes.InvalidArgument, "deviceName"},
		"no twins":       {statusOf("a"), codes.InvalidArgument, "no twins"},
		"no status":      {&pb.ReportDeviceStatusRequest{DeviceName: "a", DeviceNamespace: "default"}, codes.InvalidArgument, "no twins"},
		"unknown twin":   {statusOf("a", twin("smell", "1"), twin("flow", "3.5")), codes.InvalidArgument, `"smell"`},
	} {
		_, err := c.ReportDeviceStatus(t.Context(), x.in)
		if status.Code(err) != x.code || !strings.Contains(status.Convert(err).Message(), x.text) {
			t.Errorf("%s: %v", what, err)
		}
	}
	p.await("the known twin beside an unknown one", "a", reported("flow", "3.5"))
	if _, err := c.ReportDeviceStates(t.Context(), &pb.ReportDeviceStatesRequest{DeviceName: "nobody", State: "ok"}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
}

// TestReportWithoutNamespace: early mappers name only the device.
func TestReportWithoutNamespace(t *testing.T) {
	p, _, c := newReportingRig(t, nil, "a")
	r := statusOf("a", twin("flow", "2"))
	r.DeviceNamespace = ""
	if _, err := c.ReportDeviceStatus(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	p.await("value", "a", reported("flow", "2"))
	elsewhere := dmitest.Pump("a", func(d *v1beta1.Device) { d.Namespace = "elsewhere" })
	there := dmitest.Model()
	there.Namespace = "elsewhere"
	p.apply(there, elsewhere)
	polltest.Eventually(t, "ambiguity is reported", func() bool {
		_, err := c.ReportDeviceStatus(t.Context(), r)
		return status.Code(err) == codes.NotFound && strings.Contains(err.Error(), "several namespaces")
	})
}

// TestStates: states become the device's; while it is offline no value makes it online.
func TestStates(t *testing.T) {
	p, _, c := newReportingRig(t, nil, "a")
	say := func(state string) {
		t.Helper()
		if _, err := c.ReportDeviceStates(t.Context(), &pb.ReportDeviceStatesRequest{DeviceName: "a", DeviceNamespace: "default", State: state}); err != nil {
			t.Fatal(err)
		}
	}
	say("ok")
	p.await("online", "a", online)
	for state, reason := range map[string]string{
		"offline": "ReportedOffline", "disconnected": "ReportedDisconnected", "unknown": "ReportedUnknown",
	} {
		say(state)
		p.await(state, "a", offline(reason))
		if _, err := c.ReportDeviceStatus(t.Context(), statusOf("a", twin("flow", "6"))); err != nil {
			t.Fatal(err)
		}
		p.await("value", "a", func(s *v1beta1.DeviceStatus) bool { return reported("flow", "6")(s) && offline(reason)(s) })
		say("online")
		p.await("online", "a", online)
	}
	say("unhealthy")
	unwell := func(s *v1beta1.DeviceStatus) bool {
		return s.Status.State == devices.StateDegraded && s.Status.Extensions.Data["reason"] == "ReportedUnhealthy"
	}
	p.await("unhealthy", "a", unwell)
	if _, err := c.ReportDeviceStatus(t.Context(), statusOf("a", twin("flow", "8"))); err != nil {
		t.Fatal(err)
	}
	p.await("value of an unhealthy device", "a", func(s *v1beta1.DeviceStatus) bool { return reported("flow", "8")(s) && unwell(s) })
}

// silenceRig returns a rig with a device whose reports come regularly, and one that has reported once.
// Say reports properties of a device.
func silenceRig(t *testing.T) (p *rig, say func(device string, properties ...string)) {
	t.Helper()
	p, _, c := newReportingRig(t, func(x *timing) { x.silence = 2 * time.Second }, "a", "quiet")
	say = func(device string, properties ...string) {
		t.Helper()
		for _, n := range properties {
			if _, err := c.ReportDeviceStatus(t.Context(), statusOf(device, twin(n, "1"))); err != nil {
				t.Fatal(err)
			}
		}
	}
	say("quiet", "flow")
	say("a", "flow", "speed", "flow", "speed", "flow", "speed")
	p.await("online", "a", online)
	return p, say
}

// TestSilence: a device whose regular reports stop becomes unreachable.
func TestSilence(t *testing.T) {
	t.Parallel()
	p, say := silenceRig(t)
	p.await("silent", "a", offline(reports.ReasonSilent))
	say("a", "flow")
	p.await("back", "a", func(s *v1beta1.DeviceStatus) bool { return online(s) && reported("flow", "1")(s) })
	if !online(p.sink.status("quiet")) {
		t.Error("a device that is reported only when it changes is not silent")
	}
}

// TestOneReportIsNoSilence: a device stays online as long as one of its regular reports
// comes.
func TestOneReportIsNoSilence(t *testing.T) {
	t.Parallel()
	p, say := silenceRig(t)
	last := time.Now()
	for begin := last; last.Sub(begin) < 3*time.Second; time.Sleep(20 * time.Millisecond) {
		say("a", "speed")
		pause := time.Since(last)
		last = time.Now()
		switch {
		case pause > time.Second: // the machine held the test up: from the start
			p.await("online", "a", online)
			begin = time.Now()
		case !online(p.sink.status("a")):
			t.Fatal("a device that is reported is not silent")
		}
	}
}

// TestReportRate: five thousand reports per second of one mapper are taken without an
// error, each in a call of its own, and every sample is delivered.
func TestReportRate(t *testing.T) {
	const perSecond, seconds, callers, count = 5000, 1, 32, 50
	var names []string
	for i := range count {
		names = append(names, fmt.Sprintf("d%02d", i))
	}
	p, _, c := newReportingRig(t, nil, names...)
	start := time.Now()
	var next atomic.Int64
	var failures atomic.Int64
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for {
				n := next.Add(1) - 1
				if n >= perSecond*seconds {
					return
				}
				// The schedule is kept whatever the answers take.
				if wait := time.Until(start.Add(time.Duration(n) * time.Second / perSecond)); wait > 0 {
					time.Sleep(wait)
				}
				if _, err := c.ReportDeviceStatus(t.Context(), statusOf(names[n%count], twin("speed", strconv.FormatInt(n, 10)))); err != nil {
					if failures.Add(1) == 1 {
						t.Error(err)
					}
				}
			}
		})
	}
	group.Wait()
	took := time.Since(start)
	if failures.Load() > 0 {
		t.Errorf("%d of %d reports failed", failures.Load(), perSecond*seconds)
	}
	polltest.Eventually(t, "all samples", func() bool { return p.sink.sampled() == perSecond*seconds })
	t.Logf("%d reports in %v: %.0f/s", perSecond*seconds, took, perSecond*seconds/took.Seconds())
}

// TestReportsBeyondMemory: when samples cannot be delivered, reports are refused and
// memory stays bounded; when they can again, reports are taken again.
func TestReportsBeyondMemory(t *testing.T) {
	p, _, c := newReportingRig(t, func(x *timing) { x.patience = 10 * time.Millisecond }, "a")
	p.server.mu.Lock()
	x := p.server.sessions["default/a"]
	p.server.mu.Unlock()
	held := make(chan struct{})
	blocked := make(chan struct{})
	var once sync.Once
	// A session of its own, whose deliver blocks as a worker's does that is behind.
	def := x.delivery.definition()
	def.Device.Name, def.Object, def.Model = "slow", dmitest.Pump("slow"), dmitest.Model()
	slow, _, err := p.server.Open(def)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() {
		if err := slow.Run(ctx, func(devices.Batch) { once.Do(func() { close(blocked) }); <-held }); err != nil {
			t.Error(err)
		}
	})
	defer group.Wait()
	defer cancel()
	var release sync.Once
	defer release.Do(func() { close(held) })
	taken := 0
	polltest.Eventually(t, "a refusal", func() bool {
		_, err := c.ReportDeviceStatus(t.Context(), statusOf("slow", twin("flow", "1")))
		if err == nil {
			taken++
		}
		return status.Code(err) == codes.ResourceExhausted
	})
	<-blocked
	if taken > reports.Queued+2 {
		t.Errorf("%d reports were taken", taken)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 500 {
		if _, err := c.ReportDeviceStatus(t.Context(), statusOf("a", twin("flow", "1"))); err != nil {
			t.Fatal("another device is held up:", err)
		}
	}
	for range 20 {
		if _, err := c.ReportDeviceStatus(t.Context(), statusOf("slow", twin("flow", "1"))); status.Code(err) != codes.ResourceExhausted {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
		t.Errorf("heap grew by %d bytes", grown)
	}
	release.Do(func() { close(held) })
	polltest.Eventually(t, "taken again", func() bool {
		_, err := c.ReportDeviceStatus(t.Context(), statusOf("slow", twin("flow", "1")))
		return err == nil
	})
}
