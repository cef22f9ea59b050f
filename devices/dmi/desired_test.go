package dmi

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/dmi/convert"
	"github.com/petiole-io/petiole/devices/dmi/dmitest"
	"github.com/petiole-io/petiole/internal/polltest"
)

// TestDesired: a desired value goes to the mapper, and is applied when the mapper
// reports it.
func TestDesired(t *testing.T) {
	t.Parallel()
	p := newPlant(t, nil)
	f := newField()
	m := p.newMapper(f).start(true)
	p.apply(dmitest.Model(), dmitest.Pump("a"))
	p.await("online", "a", online)
	p.apply(dmitest.Pump("a", dmitest.Desiring("speed", "1500"), dmitest.Desiring("running", "true")))
	p.await("applied", "a", func(s *v1beta1.DeviceStatus) bool {
		return acked("speed", devices.Applied, "")(s) && acked("running", devices.Applied, "")(s)
	})
	p.await("reported", "a", reported("speed", "1500"))
	if f.get("a", "speed") != "1500" || f.get("a", "running") != "true" {
		t.Error("not written")
	}
	polltest.Eventually(t, "audit", func() bool {
		a := p.sink.lastAudit()
		return a.Property == "speed" && a.Written && a.Before == "0" && a.After == "1500" && a.Ack == devices.Applied
	})
	p.apply(dmitest.Pump("a", dmitest.Desiring("speed", "1600"), dmitest.Desiring("running", "true")))
	p.await("applied again", "a", func(s *v1beta1.DeviceStatus) bool {
		return acked("speed", devices.Applied, "")(s) && reported("speed", "1600")(s)
	})
	if n := m.count("update a"); n != 3 {
		t.Errorf("%d updates for three values: %s", n, m.log())
	}
}

// TestDesiredOutOfBounds: what the model forbids never reaches the mapper.
func TestDesiredOutOfBounds(t *testing.T) {
	p := newPlant(t, nil)
	m := p.newMapper(newField()).start(true)
	p.apply(dmitest.Model(), dmitest.Pump("a", dmitest.Desiring("speed", "9000")))
	p.await("rejected", "a", acked("speed", devices.Rejected, devices.ReasonOutOfBounds))
	p.await("online", "a", online)
	if v := m.device("a").GetSpec().GetProperties()[1].GetDesired().GetValue(); v != "" {
		t.Errorf("the mapper got %q", v)
	}
}

// TestDesiredNotTaken: the device keeps another value than the mapper writes.
func TestDesiredNotTaken(t *testing.T) {
	t.Parallel()
	p := newPlant(t, func(x *timing) { x.applied = 400 * time.Millisecond })
	f := newField()
	f.deaf["a"] = true
	p.newMapper(f).start(true)
	p.apply(dmitest.Model(), dmitest.Pump("a", dmitest.Desiring("speed", "1500")))
	p.await("rejected", "a", acked("speed", devices.Rejected, devices.ReasonReadBack))
}

// TestDesiredRefused: a value with which the mapper refuses the device is taken back, so
// that the device goes on.
func TestDesiredRefused(t *testing.T) {
	p := newPlant(t, nil)
	m := p.newMapper(newField()).start(true)
	p.apply(dmitest.Model(), dmitest.Pump("a", dmitest.Desiring("speed", "1500")))
	p.await("applied", "a", acked("speed", devices.Applied, ""))
	m.set(func() { m.dislike = "2999" })
	p.apply(dmitest.Pump("a", dmitest.Desiring("speed", "2999")))
	p.await("rejected", "a", acked("speed", devices.Rejected, devices.ReasonRefused))
	p.await("online", "a", online)
	polltest.Eventually(t, "old value at the mapper", func() bool {
		return m.device("a").GetSpec().GetProperties()[1].GetDesired().GetValue() == "1500"
	})
}

// TestDesiredRefusedWithTheDevice: a value that was desired while the mapper was away, and
// with which it refuses the device when it is back, is rejected; the device goes on.
func TestDesiredRefusedWithTheDevice(t *testing.T) {
	p := newPlant(t, nil)
	p.apply(dmitest.Model(), dmitest.Pump("a", dmitest.Desiring("speed", "2999")))
	p.await("waiting", "a", acked("speed", devices.Pending, devices.ReasonOffline))
	m := p.newMapper(newField())
	m.dislike = "2999"
	m.start(false)
	p.await("rejected", "a", acked("speed", devices.Rejected, devices.ReasonRefused))
	p.await("online", "a", online)
}

// TestDesiredWhileMapperIsAway: it is sent with the registration, and applied when it
// is reported.
func TestDesiredWhileMapperIsAway(t *testing.T) {
	p := newPlant(t, nil)
	p.apply(dmitest.Model(), dmitest.Pump("a", dmitest.Desiring("speed", "1500")))
	p.await("waiting", "a", acked("speed", devices.Pending, devices.ReasonOffline))
	m := p.newMapper(newField()).start(true)
	p.await("applied", "a", acked("speed", devices.Applied, ""))
	if m.log() != "[]" {
		t.Errorf("sent twice: %s", m.log())
	}
}

// TestDesiredThatExpires: a value that must not be sent late is not kept for a mapper
// that is away.
func TestDesiredThatExpires(t *testing.T) {
	t.Parallel()
	p := newPlant(t, nil)
	p.apply(dmitest.Model(), dmitest.Pump("a", dmitest.Desiring("speed", "1500"), func(d *v1beta1.Device) {
		d.Spec.Properties[1].Desired.Metadata = map[string]string{"expiresAt": time.Now().Add(300 * time.Millisecond).Format(time.RFC3339Nano)}
	}))
	p.await("expired", "a", acked("speed", devices.Expired, devices.ReasonDeadline))
	answer, err := p.newMapper(newField()).register(true)
	if err != nil || len(answer.GetDeviceList()) != 1 {
		t.Fatal(answer, err)
	}
	if v := answer.GetDeviceList()[0].GetSpec().GetProperties()[1].GetDesired().GetValue(); v != "" {
		t.Errorf("sent late: %s", v)
	}
	if a := answer.GetModelList()[0].GetSpec().GetProperties()[1].GetAccessMode(); a != "ReadOnly" {
		t.Errorf("the mapper has no value to write for a property that is %s", a)
	}
}

// TestDesiredThatHasExpired: a value that was applied in time is not written by a mapper that
// starts after its expiresAt.
func TestDesiredThatHasExpired(t *testing.T) {
	t.Parallel()
	p := newPlant(t, nil)
	m := p.newMapper(newField()).start(true)
	expires := time.Now().Add(5 * time.Second)
	p.apply(dmitest.Model(), dmitest.Pump("a", dmitest.Desiring("speed", "1500"), func(d *v1beta1.Device) {
		d.Spec.Properties[1].Desired.Metadata = map[string]string{"expiresAt": expires.Format(time.RFC3339Nano)}
	}))
	p.await("concluded", "a", func(s *v1beta1.DeviceStatus) bool {
		return acked("speed", devices.Applied, "")(s) || acked("speed", devices.Expired, devices.ReasonDeadline)(s)
	})
	m.kill()
	polltest.Eventually(t, "expired", func() bool { return time.Now().After(expires) })
	answer, err := p.newMapper(newField()).register(true)
	if err != nil || len(answer.GetDeviceList()) != 1 {
		t.Fatal(answer, err)
	}
	if v := answer.GetDeviceList()[0].GetSpec().GetProperties()[1].GetDesired().GetValue(); v != "" {
		t.Errorf("sent late: %s", v)
	}
}

// TestExpiryByTheRightClock: whether a value goes to a mapper that starts is judged by the right clock.
// While the time is not known the value waits, and is sent when it is.
func TestExpiryByTheRightClock(t *testing.T) {
	t.Parallel()
	for name, expires := range map[string]time.Duration{ // by the wall clock
		"the wall clock is behind": 3 * time.Hour,
		"the wall clock is ahead":  -3 * time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t, nil)
			sent := func(m *fakeMapper) string { return m.device("a").GetSpec().GetProperties()[1].GetDesired().GetValue() }
			m := p.newMapper(newField()).start(true)
			// It is applied when it is an hour earlier than it expires.
			p.clock.ahead.Store(int64(expires - time.Hour))
			p.apply(dmitest.Model(), dmitest.Pump("a", dmitest.Desiring("speed", "1500"), func(d *v1beta1.Device) {
				d.Spec.Properties[1].Desired.Metadata = map[string]string{"expiresAt": time.Now().Add(expires).Format(time.RFC3339Nano)}
			}))
			p.await("applied", "a", acked("speed", devices.Applied, ""))
			m.kill()

			p.clock.unknown.Store(true)
			m = p.newMapper(newField()).start(true)
			polltest.Eventually(t, "the device", func() bool { return m.device("a") != nil })
			if v := sent(m); v != "" {
				t.Errorf("sent while the time is unknown: %s", v)
			}
			p.clock.unknown.Store(false)
			polltest.Eventually(t, "the value, when the time is known", func() bool { return sent(m) == "1500" })
			m.kill()

			p.clock.ahead.Store(int64(expires + time.Minute)) // it has expired by a minute
			answer, err := p.newMapper(newField()).register(true)
			if err != nil || len(answer.GetDeviceList()) != 1 {
				t.Fatal(answer, err)
			}
			if v := answer.GetDeviceList()[0].GetSpec().GetProperties()[1].GetDesired().GetValue(); v != "" {
				t.Errorf("sent late: %s", v)
			}
		})
	}
}

// accessModes returns the access modes of a device's properties, as a mapper has them.
func (m *fakeMapper) accessModes(device string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var modes []string
	d := m.devices["default/"+device]
	for _, p := range m.models["default/"+d.GetSpec().GetDeviceModelReference()].GetSpec().GetProperties() {
		modes = append(modes, p.GetName()+" "+p.GetAccessMode())
	}
	return strings.Join(modes, ", ")
}

// TestRejectedValueIsNotEmpty: a mapper has no empty value to write for a property whose desired
// value was rejected: the property is only read, in this device, until there is a value.
func TestRejectedValueIsNotEmpty(t *testing.T) {
	t.Parallel()
	p := newPlant(t, nil)
	m := p.newMapper(newField()).start(true)
	p.apply(dmitest.Model(), dmitest.Pump("b", dmitest.Desiring("speed", "700")))
	p.await("other device", "b", acked("speed", devices.Applied, ""))
	p.apply(dmitest.Pump("a", dmitest.Desiring("speed", "9000"), dmitest.Desiring("running", "on")))
	p.await("rejected", "a", acked("speed", devices.Rejected, devices.ReasonOutOfBounds))
	p.await("applied", "a", func(s *v1beta1.DeviceStatus) bool {
		return acked("running", devices.Applied, "")(s) && reported("speed", "0")(s)
	})
	const readOnly, all = "flow ReadOnly, speed ReadOnly, running ReadWrite", "flow ReadOnly, speed ReadWrite, running ReadWrite"
	if got := m.accessModes("a"); got != readOnly {
		t.Errorf("a: %s", got)
	}
	if v := m.device("a").GetSpec().GetProperties()[2].GetDesired().GetValue(); v != "true" {
		t.Errorf("a mapper cannot parse %q", v)
	}
	if got := m.accessModes("b"); got != all {
		t.Errorf("b: %s", got)
	}
	// So it is when the mapper starts.
	m.kill()
	p.await("offline", "a", offline(ReasonMapperAway))
	m = p.newMapper(newField()).start(true)
	p.await("online again", "a", online)
	if got := m.accessModes("a") + "; " + m.accessModes("b"); got != readOnly+"; "+all {
		t.Error(got)
	}
	p.apply(dmitest.Pump("a", dmitest.Desiring("speed", "1500"), dmitest.Desiring("running", "on")))
	p.await("applied", "a", func(s *v1beta1.DeviceStatus) bool {
		return acked("speed", devices.Applied, "")(s) && reported("speed", "1500")(s)
	})
	if got := m.accessModes("a"); got != all {
		t.Errorf("a: %s", got)
	}
	polltest.Eventually(t, "the unused model is removed", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return len(m.models) == 1
	})
}

// TestWriteIsJudgedByTheCycle: the limit of a write is one of its beginning; what the mapper
// reports later counts.
func TestWriteIsJudgedByTheCycle(t *testing.T) {
	t.Parallel()
	p := newPlant(t, func(x *timing) { x.applied = time.Minute })
	f := newField()
	f.deaf["a"] = true
	m := p.newMapper(f).start(true)
	p.apply(dmitest.Model(), dmitest.Pump("a"))
	p.await("reported", "a", reported("speed", "0"))
	begin := time.Now().Add(2 * time.Second)
	done := make(chan error, 1)
	go func() {
		_, err := p.session("a").WriteBefore(t.Context(), begin, 1, "1500", false)
		done <- err
	}()
	polltest.Eventually(t, "sent", func() bool { return m.count("update a") == 1 })
	polltest.Eventually(t, "the limit", func() bool { return time.Now().After(begin) })
	f.set("a", "speed", "1500")
	if err := <-done; err != nil {
		t.Error(err)
	}
	if o, err := p.session("a").WriteBefore(t.Context(), begin, 1, "1600", false); !errors.Is(err, devices.ErrUnreachable) || o.Written {
		t.Errorf("a write that begins late: %+v, %v", o, err)
	}
}

// TestRejectedValueIsToldOnce: a value that the device never shows is sent once, and not with
// the device when the mapper starts again.
func TestRejectedValueIsToldOnce(t *testing.T) {
	t.Parallel()
	p := newPlant(t, func(x *timing) { x.applied = 400 * time.Millisecond })
	f := newField()
	f.deaf["a"] = true
	m := p.newMapper(f).start(true)
	p.apply(dmitest.Model(), dmitest.Pump("a"))
	p.await("reported", "a", reported("speed", "0"))
	before := m.count("update a")
	p.apply(dmitest.Pump("a", dmitest.Desiring("speed", "1500")))
	p.await("rejected", "a", acked("speed", devices.Rejected, devices.ReasonReadBack))
	answer, err := p.newMapper(f).register(true)
	if err != nil || len(answer.GetDeviceList()) != 1 {
		t.Fatal(answer, err)
	}
	if n := m.count("update a") - before; n != 1 {
		t.Errorf("sent %d times: %s", n, m.log())
	}
	if v := answer.GetDeviceList()[0].GetSpec().GetProperties()[1].GetDesired().GetValue(); v != "" {
		t.Errorf("sent again: %s", v)
	}
}

// TestValueOfAPropertyThatIsNotReported: a mapper that reports the device and not the property
// has most likely failed to write it, and then does not read it: the value is rejected, and the
// property delivered without it, so that it is read again.
func TestValueOfAPropertyThatIsNotReported(t *testing.T) {
	t.Parallel()
	p := newPlant(t, func(x *timing) { x.applied = 400 * time.Millisecond })
	m := p.newMapper(newField()).start(true)
	m.set(func() { m.skip = "speed" })
	p.apply(dmitest.Model(), dmitest.Pump("a"))
	p.await("reported", "a", reported("running", "false"))
	p.apply(dmitest.Pump("a", dmitest.Desiring("speed", "1500")))
	p.await("rejected", "a", acked("speed", devices.Rejected, devices.ReasonUnverified))
	polltest.Eventually(t, "delivered without the value", func() bool {
		return m.accessModes("a") == "flow ReadOnly, speed ReadOnly, running ReadWrite"
	})
	p.await("online", "a", online)
}

// TestDesiredRemoved: what is desired no more is left alone, also by a new mapper.
func TestDesiredRemoved(t *testing.T) {
	p := newPlant(t, nil)
	m := p.newMapper(newField()).start(true)
	p.apply(dmitest.Model(), dmitest.Pump("a", dmitest.Desiring("speed", "1500")))
	p.await("applied", "a", acked("speed", devices.Applied, ""))
	undesired := dmitest.Pump("a")
	p.apply(undesired)
	p.server.mu.Lock()
	x := p.server.sessions["default/a"]
	p.server.mu.Unlock()
	x.Redefine(dmitest.Resolve(undesired, dmitest.Model()))
	polltest.Eventually(t, "taken back", func() bool {
		return m.device("a").GetSpec().GetProperties()[1].GetDesired().GetValue() == ""
	})
	if m.field.get("a", "speed") != "1500" {
		t.Error("the device was changed")
	}
}

// TestDesiredSurvivesLeafRestart: a value that was applied is not sent again.
func TestDesiredSurvivesLeafRestart(t *testing.T) {
	t.Parallel()
	p := newPlant(t, nil)
	f := newField()
	m := p.newMapper(f).start(true)
	p.apply(dmitest.Model(), dmitest.Pump("a", dmitest.Desiring("speed", "1500")))
	p.await("applied", "a", acked("speed", devices.Applied, ""))
	before := m.count("update a")
	f.set("a", "speed", "1400") // somebody turns the knob
	p.await("drifted", "a", acked("speed", devices.Drifted, "ChangedAtDevice"))
	p.restart()
	p.apply(dmitest.Model(), dmitest.Pump("a", dmitest.Desiring("speed", "1500")))
	polltest.Eventually(t, "introduced again", func() bool { return m.count("register a") > 0 })
	p.await("still drifted", "a", reported("speed", "1400"))
	if m.count("update a") != before {
		t.Error(m.log())
	}
}

// TestWriteOnce: a value that is not desired is sent once.
func TestWriteOnce(t *testing.T) {
	t.Parallel()
	p := newPlant(t, nil)
	f := newField()
	m := p.newMapper(f).start(true)
	p.apply(dmitest.Model(), dmitest.Pump("a"))
	p.await("reported", "a", reported("speed", "0"))
	p.server.mu.Lock()
	x := p.server.sessions["default/a"]
	p.server.mu.Unlock()
	o, err := x.Write(t.Context(), 1, "700")
	if err != nil || !o.Written || o.Before != "0" || o.After != "700" {
		t.Fatalf("%+v, %v", o, err)
	}
	f.set("a", "speed", "0")
	m.kill()
	p.await("offline", "a", offline(ReasonMapperAway))
	if _, err := x.Write(t.Context(), 1, "800"); !errors.Is(err, devices.ErrUnreachable) {
		t.Errorf("write without a mapper: %v", err)
	}
	m = p.newMapper(f).start(true)
	p.await("online again", "a", online)
	p.await("not sent again", "a", reported("speed", "0"))
	if v := m.device("a").GetSpec().GetProperties()[1].GetDesired().GetValue(); v != "" {
		t.Errorf("sent again: %q", v)
	}
}

// session is the one that operates a device.
func (p *rig) session(device string) *session {
	p.server.mu.Lock()
	defer p.server.mu.Unlock()
	return p.server.sessions["default/"+device]
}

// TestCommandIsSentEachTime: a command is sent whatever is desired, sent or reported, and
// leaves no trace in what the mapper gets with the device.
func TestCommandIsSentEachTime(t *testing.T) {
	t.Parallel()
	p := newPlant(t, nil)
	f := newField()
	m := p.newMapper(f).start(true)
	p.apply(dmitest.Model(), dmitest.Pump("a", dmitest.Desiring("speed", "1500")))
	p.await("applied", "a", acked("speed", devices.Applied, ""))
	p.await("reported", "a", reported("speed", "1500"))
	x := p.session("a")
	before := m.count("update a")
	for range 2 {
		o, err := x.Command(t.Context(), 1, "1500")
		if err != nil || !o.Written || o.Before != "1500" || o.After != "1500" || o.Sent != "UpdateDevice default/a: speed = 1500" {
			t.Fatalf("%+v, %v", o, err)
		}
	}
	if n := m.count("update a") - before; n != 2 {
		t.Errorf("two commands were sent %d times: %s", n, m.log())
	}
	if got := m.device("a").GetSpec().GetProperties()[1].GetDesired().GetMetadata()[convert.MetaCommand]; got != "true" {
		t.Error("the mapper cannot tell it from a desired value")
	}
	// Another value than the desired one is sent once, too.
	if o, err := x.Command(t.Context(), 1, "700"); err != nil || o.After != "700" {
		t.Fatalf("%+v, %v", o, err)
	}
	m.kill()
	p.await("offline", "a", offline(ReasonMapperAway))
	if o, err := x.Command(t.Context(), 1, "800"); !errors.Is(err, devices.ErrUnreachable) || o.Written || o.Sent != "" {
		t.Errorf("command without a mapper: %+v, %v", o, err)
	}
	m = p.newMapper(f).start(true)
	p.await("online again", "a", online)
	polltest.Eventually(t, "the device", func() bool { return m.device("a") != nil })
	if d := m.device("a").GetSpec().GetProperties()[1].GetDesired(); d.GetValue() != "1500" || d.GetMetadata()[convert.MetaCommand] != "" {
		t.Errorf("sent with the device: %v", d)
	}
}

// TestCommandNotTaken: a mapper's consent is not the device's. Whether a value that reads
// zero was acted on is not known; any other value was not taken.
func TestCommandNotTaken(t *testing.T) {
	t.Parallel()
	p := newPlant(t, func(x *timing) { x.applied = 400 * time.Millisecond })
	f := newField()
	f.deaf["a"] = true
	m := p.newMapper(f).start(true)
	p.apply(dmitest.Model(), dmitest.Pump("a"))
	p.await("reported", "a", reported("speed", "0"))
	x := p.session("a")
	o, err := x.Command(t.Context(), 1, "1")
	if !errors.Is(err, devices.ErrUnreachable) || !o.Written || o.After != "0" {
		t.Errorf("%+v, %v", o, err)
	}
	f.set("a", "speed", "20")
	p.await("reported", "a", reported("speed", "20"))
	var rejection *devices.Rejection
	if o, err = x.Command(t.Context(), 1, "30"); !errors.As(err, &rejection) || rejection.Reason != devices.ReasonReadBack || !o.Written {
		t.Errorf("%+v, %v", o, err)
	}
	if n := m.count("update a"); n != 2 {
		t.Errorf("two commands were sent %d times: %s", n, m.log())
	}
}
