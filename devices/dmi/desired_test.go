package dmi

import (
	"errors"
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
