package dmi

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/dmi/dmitest"
	"github.com/petiole-io/petiole/internal/polltest"
)

// TestRegistrationIsAnsweredWithDevices: models and devices of the mapper's protocol,
// merged, and the values that come back.
func TestRegistrationIsAnsweredWithDevices(t *testing.T) {
	p := newPlant(t, nil)
	other := dmitest.Pump("other", func(d *v1beta1.Device) { d.Spec.Protocol.ProtocolName = "morse" })
	p.apply(dmitest.Model(), dmitest.Pump("a"), dmitest.Pump("b"), other)
	p.await("no mapper yet", "a", offline(ReasonNoMapper))
	m := p.newMapper(newField())
	answer, err := m.register(true)
	if err != nil {
		t.Fatal(err)
	}
	if len(answer.GetDeviceList()) != 2 || len(answer.GetModelList()) != 1 {
		t.Fatalf("got %d devices and %d models", len(answer.GetDeviceList()), len(answer.GetModelList()))
	}
	m.serve(answer)
	p.await("value", "a", reported("flow", "21.1"))
	p.await("value", "b", reported("flow", "21.1"))
	p.await("online", "a", online)
	p.await("the other protocol has no mapper", "other", offline(ReasonNoMapper))
	if calls := m.log(); calls != "[]" {
		t.Errorf("what the answer held was brought again: %s", calls)
	}
	// A device that is applied later is delivered.
	p.apply(dmitest.Pump("c"))
	p.await("later device", "c", online)
	if m.count("register c") != 1 || m.count("update c") != 0 {
		t.Error(m.log())
	}
}

// A property of type STREAM is the mapper's business, and no problem of the device.
func TestStreamsAreLeftToTheMapper(t *testing.T) {
	p := newPlant(t, nil)
	model := dmitest.Model()
	model.Spec.Properties = append(model.Spec.Properties, v1beta1.ModelProperty{Name: "video", Type: v1beta1.STREAM, AccessMode: v1beta1.ReadOnly})
	p.apply(model, dmitest.Pump("a", func(d *v1beta1.Device) {
		d.Spec.Properties = append(d.Spec.Properties, v1beta1.DeviceProperty{Name: "video"})
	}))
	p.newMapper(newField()).start(true)
	p.await("online", "a", online)
	if problems := p.sink.status("a").Status.Extensions.Data["problems"]; problems != nil {
		t.Errorf("problems: %v", problems)
	}
}

// TestRegistrationWithoutData: the devices are delivered afterwards.
func TestRegistrationWithoutData(t *testing.T) {
	p := newPlant(t, nil)
	p.apply(dmitest.Model(), dmitest.Pump("a"))
	m := p.newMapper(newField()).start(false)
	p.await("online", "a", online)
	if m.count("register a") != 1 || m.count("update a") != 0 || m.count("create model pump") != 1 {
		t.Error(m.log())
	}
}

// TestMapperRestart: the mapper dies, its devices are unreachable with the reason; it
// comes again, knows nothing, and has its devices and their desired values.
func TestMapperRestart(t *testing.T) {
	t.Parallel()
	for name, withData := range map[string]bool{"asks for devices": true, "has devices brought": false} {
		t.Run(name, func(t *testing.T) {
			p := newPlant(t, nil)
			f := newField()
			p.apply(dmitest.Model(), dmitest.Pump("a", dmitest.Desiring("speed", "1500")))
			m := p.newMapper(f).start(withData)
			p.await("applied", "a", acked("speed", devices.Applied, ""))
			m.kill()
			p.await("offline", "a", offline(ReasonMapperAway))
			p.await("no value is good", "a", quality("flow", devices.Bad, ReasonMapperAway))
			f.set("a", "flow", "7")
			m = p.newMapper(f).start(withData)
			p.await("online again", "a", func(s *v1beta1.DeviceStatus) bool { return online(s) && reported("flow", "7")(s) })
			polltest.Eventually(t, "desired value at the new mapper", func() bool {
				d := m.device("a")
				return d != nil && d.GetSpec().GetProperties()[1].GetDesired().GetValue() == "1500"
			})
		})
	}
}

// TestMapperBeforeDevices: a mapper may register when there is nothing for it.
func TestMapperBeforeDevices(t *testing.T) {
	p := newPlant(t, nil)
	m := p.newMapper(newField()).start(true)
	p.apply(dmitest.Pump("a"), dmitest.Model())
	p.await("online", "a", online)
	if m.count("register a") != 1 {
		t.Error(m.log())
	}
}

// TestLeafRestart: a mapper registers once, when it starts. After a restart the leaf
// finds it by itself, and sends only what has changed.
func TestLeafRestart(t *testing.T) {
	t.Parallel()
	p := newPlant(t, nil)
	f := newField()
	m := p.newMapper(f).start(true)
	p.apply(dmitest.Model(), dmitest.Pump("a", dmitest.Desiring("speed", "1500")), dmitest.Pump("b"))
	p.await("applied", "a", acked("speed", devices.Applied, ""))
	p.await("online", "b", online)
	updates := m.count("update a")
	p.restart()
	f.set("a", "flow", "8")
	p.apply(dmitest.Model(), dmitest.Pump("a", dmitest.Desiring("speed", "1500")), dmitest.Pump("b", dmitest.Desiring("speed", "900")))
	p.await("online again", "a", reported("flow", "8"))
	p.await("applied", "b", acked("speed", devices.Applied, ""))
	polltest.Eventually(t, "introduced again", func() bool { return m.count("register a") >= 1 && m.count("register b") >= 1 })
	if m.count("update a") != updates {
		t.Errorf("an unchanged device was updated: %s", m.log())
	}
	if m.count("remove a")+m.count("remove b") != 0 {
		t.Errorf("the leaf's end took devices away: %s", m.log())
	}
}

// TestDeviceDeletedWhileLeafIsDown: the device is removed when the leaf is back.
func TestDeviceDeletedWhileLeafIsDown(t *testing.T) {
	t.Parallel()
	p := newPlant(t, func(x *timing) { x.orphan = 3 * time.Second })
	m := p.newMapper(newField()).start(true)
	p.apply(dmitest.Model(), dmitest.Pump("a"), dmitest.Pump("b"))
	p.await("online", "a", online)
	p.await("online", "b", online)
	p.restart()
	p.apply(dmitest.Model(), dmitest.Pump("b"))
	polltest.Eventually(t, "a removed", func() bool { return m.count("remove a") == 1 })
	if m.count("remove b") != 0 {
		t.Error(m.log())
	}
}

// TestDeviceDeleted: the device is removed from the mapper, and the model after its last device.
func TestDeviceDeleted(t *testing.T) {
	t.Parallel()
	p := newPlant(t, nil)
	m := p.newMapper(newField()).start(true)
	p.apply(dmitest.Model(), dmitest.Pump("a"), dmitest.Pump("b"))
	p.await("online", "a", online)
	p.await("online", "b", online)
	p.delete("a")
	polltest.Eventually(t, "a removed", func() bool { return m.count("remove a") == 1 })
	if m.count("remove model pump") != 0 {
		t.Error("the model is in use:", m.log())
	}
	p.delete("b")
	polltest.Eventually(t, "model removed", func() bool { return m.count("remove model pump") == 1 })
	p.apply(dmitest.Pump("a"))
	polltest.Eventually(t, "a registered again", func() bool { return m.count("register a") >= 2 })
}

// TestDefinitionChanged: one update, no removal.
func TestDefinitionChanged(t *testing.T) {
	p := newPlant(t, nil)
	m := p.newMapper(newField()).start(true)
	p.apply(dmitest.Model(), dmitest.Pump("a"))
	p.await("online", "a", online)
	p.apply(dmitest.Pump("a", func(d *v1beta1.Device) { d.Spec.Protocol.ConfigData.Data["host"] = "10.0.0.2" }))
	polltest.Eventually(t, "updated", func() bool {
		v, err := m.device("a").GetSpec().GetProtocol().GetConfigData().GetData()["host"].UnmarshalNew()
		return err == nil && v.ProtoReflect().Get(v.ProtoReflect().Descriptor().Fields().ByNumber(1)).String() == "10.0.0.2"
	})
	if m.count("update a") != 1 || m.count("remove a") != 0 {
		t.Error(m.log())
	}
}

// TestModelChanged: the mapper has the new model before the device.
func TestModelChanged(t *testing.T) {
	p := newPlant(t, nil)
	m := p.newMapper(newField()).start(true)
	p.apply(dmitest.Model(), dmitest.Pump("a"))
	p.await("online", "a", online)
	changed := dmitest.Model()
	changed.Spec.Properties[1].Maximum = "1000"
	p.apply(changed)
	polltest.Eventually(t, "model updated", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		x := m.models["default/pump"]
		return x != nil && x.GetSpec().GetProperties()[1].GetMaximum() == "1000"
	})
}

// TestPoisonDevice: a device that its mapper refuses holds up no other and is tried until
// it is taken.
func TestPoisonDevice(t *testing.T) {
	t.Parallel()
	p := newPlant(t, nil)
	m := p.newMapper(newField())
	m.refuse["poison"] = errors.New("what a terrible thought")
	m.start(false)
	p.apply(dmitest.Model(), dmitest.Pump("poison", dmitest.Desiring("speed", "5")), dmitest.Pump("a", dmitest.Desiring("speed", "6")))
	p.await("refused", "poison", offline(ReasonMapperRefuses))
	p.await("applied", "a", acked("speed", devices.Applied, ""))
	m.set(func() { delete(m.refuse, "poison") })
	p.await("taken at last", "poison", acked("speed", devices.Applied, ""))
	p.await("online", "poison", online)
}

// TestForgetfulMapper: a mapper that has lost model and device gets both again.
func TestForgetfulMapper(t *testing.T) {
	t.Parallel()
	p := newPlant(t, nil)
	m := p.newMapper(newField()).start(true)
	p.apply(dmitest.Model(), dmitest.Pump("a"))
	p.await("online", "a", online)
	m.set(func() { clear(m.models); clear(m.devices) })
	p.apply(dmitest.Pump("a", dmitest.Desiring("speed", "10")))
	p.await("applied", "a", acked("speed", devices.Applied, ""))
}

// TestMapperHangs: a process that accepts calls and answers none is as good as gone.
func TestMapperHangs(t *testing.T) {
	p := newPlant(t, func(x *timing) { x.probe, x.grace = 100*time.Millisecond, 200*time.Millisecond })
	m := p.newMapper(newField())
	l, err := net.Listen("unix", m.path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p.apply(dmitest.Model(), dmitest.Pump("a"))
	if _, err := m.register(true); err != nil {
		t.Fatal(err)
	}
	p.await("offline", "a", offline(ReasonMapperAway))
}

// TestRegistrationIsChecked: what cannot work is answered clearly.
func TestRegistrationIsChecked(t *testing.T) {
	p := newPlant(t, nil)
	m := p.newMapper(newField())
	m.path = "mapper.sock"
	if _, err := m.register(true); status.Code(err) != codes.InvalidArgument {
		t.Errorf("relative path: %v", err)
	}
}

// TestSocket: mode and folder; only a socket without a server is replaced.
func TestSocket(t *testing.T) {
	p := newPlant(t, nil)
	info, err := os.Stat(p.socket())
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	if _, err := listen(t.Context(), p.socket()); err == nil {
		t.Error("a socket in use was taken over")
	}
	if _, err := p.newMapper(newField()).register(true); err != nil {
		t.Error("the server is disturbed:", err)
	}
	stale := p.dir + "/stale.sock"
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	again, err := listen(t.Context(), stale)
	if err != nil {
		t.Fatal("a stale socket is in the way:", err)
	}
	again.Close()
	file := p.dir + "/file"
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(t.Context(), file); err == nil {
		t.Error("a file was replaced")
	}
}
