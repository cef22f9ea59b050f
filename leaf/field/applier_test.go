package field

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/modbus"
	"github.com/petiole-io/petiole/streams"
)

func deviceRef(node, name string) streams.Ref {
	return streams.Ref{Node: node, Group: v1beta1.GroupName, Resource: v1beta1.ResourceDevices, Namespace: "default", Name: name}
}

// operate is run with a shorter delay before a failed message is delivered again.
func (r *rig) operate() (f *Field, stop func()) {
	ctx, cancel := context.WithCancel(r.ctx)
	f = New(Config{Site: "plant-a", Node: "plant-a-1", JS: r.js, Clock: r.clock(r.t.TempDir()), Log: zaptest.NewLogger(r.t), Drivers: []devices.Driver{modbus.New(nil)}})
	f.retry = 10 * time.Millisecond
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	return f, func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	}
}

func (r *rig) operates(f *Field, name string) bool {
	r.t.Helper()
	h := f.host.Load()
	if h == nil { // it starts
		return false
	}
	is, err := h.Operates(r.ctx, "default", name)
	if err != nil {
		r.t.Fatal(err)
	}
	return is
}

// partless stores the message of a large device whose parts are not in the stream.
func (r *rig) partless(name string) {
	r.t.Helper()
	m := streams.Message{Ref: deviceRef("plant-a-1", name), Op: streams.OpPut, Version: "1", Object: []byte(`{}`)}
	msg := m.Encode(streams.DesiredSubject("plant-a", m.Ref))
	msg.Data = nil
	msg.Header.Set(streams.HeaderParts, "2")
	if _, err := r.js.PublishMsg(r.ctx, msg); err != nil {
		r.t.Fatal(err)
	}
}

// TestMissingPartBlocksNothing stores a large device without its parts, before the field
// starts and while it runs: the other devices are operated, and the large one is
// quarantined.
func TestMissingPartBlocksNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.partless("big")
	r.model()
	r.device("1", "7")
	f, stop := r.operate()
	defer stop()
	r.eventually("reported value", func() bool { return r.reported() == "7" })
	r.eventually("quarantined", func() bool { return f.Quarantined() == 1 && r.backlog() == 0 })
	r.partless("bigger")
	r.device("2", "8")
	r.eventually("reported value", func() bool { return r.reported() == "8" })
	r.eventually("quarantined", func() bool { return f.Quarantined() == 2 && r.backlog() == 0 })
}

// TestTombstoneOfAnotherNode moves a device to this node: the tombstone of the other node
// does not delete it here, neither while the field runs nor at a start, in either order. A
// command with a known id proves that the device's state was kept.
func TestTombstoneOfAnotherNode(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.model()
	r.deviceAt("plant-a-2", "pump", "1", `"desired":{"value":"5"}`)
	r.device("2", "7")
	tombstone := func(node, version string) {
		t.Helper()
		m := streams.Message{Ref: deviceRef(node, "pump"), Op: streams.OpDelete, Version: version}
		if _, err := streams.Put(r.ctx, r.js, streams.DesiredSubject("plant-a", m.Ref), m); err != nil {
			t.Fatal(err)
		}
	}
	command := devices.Command{
		ID: "1", Device: devices.Ref{Namespace: "default", Name: "pump"},
		Properties: map[string]string{"setpoint": "9"}, Deadline: time.Now().Add(time.Hour),
	}
	markers := 0
	check := func(f *Field, repeated bool) {
		t.Helper()
		markers++
		marker := fmt.Sprint("marker-", markers)
		r.deviceAt("plant-a-1", marker, "1", `"reportCycle":0`)
		r.eventually("everything applied", func() bool { return r.operates(f, marker) })
		if !r.operates(f, "pump") {
			t.Fatal("the device is not operated")
		}
		got, err := f.host.Load().Command(r.ctx, command)
		if err != nil || got.Ack != devices.Applied || got.Repeated != repeated {
			t.Fatalf("command: %+v, %v; want repeated %t", got, err, repeated)
		}
	}
	f, stop := r.operate()
	check(f, false)
	tombstone("plant-a-2", "3")
	check(f, true)
	stop()
	f, stop = r.operate() // the tombstone comes after the device
	check(f, true)
	r.device("4", "7")
	stop()
	f, stop = r.operate() // and before it
	defer func() { stop() }()
	check(f, true)
	tombstone("plant-a-1", "5")
	r.eventually("removed", func() bool { return !r.operates(f, "pump") })
}

// TestTombstoneAfterAnUnacknowledgedMessage leaves a device unacknowledged, as a worker does
// that is killed before it has applied it. That does not block the next worker: it removes
// another device that is deleted, long before the consumer's AckWait has passed.
func TestTombstoneAfterAnUnacknowledgedMessage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.model()
	r.device("1", "7")
	f, stop := r.operate()
	r.eventually("everything applied", func() bool { return r.operates(f, "pump") && r.backlog() == 0 })
	stop()
	r.deviceAt("plant-a-1", "other", "2", `"reportCycle":0`)
	c, err := r.js.Consumer(r.ctx, streams.SiteDesired, streams.DevicesConsumer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Next(jetstream.FetchMaxWait(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	f, stop = r.operate()
	defer stop()
	r.eventually("operated", func() bool { return r.operates(f, "pump") && r.operates(f, "other") })
	m := streams.Message{Ref: deviceRef("plant-a-1", "pump"), Op: streams.OpDelete, Version: "3"}
	if _, err := streams.Put(r.ctx, r.js, streams.DesiredSubject("plant-a", m.Ref), m); err != nil {
		t.Fatal(err)
	}
	r.eventually("removed", func() bool { return !r.operates(f, "pump") })
}

// TestDeletedKeyLeavesAnExpiringMarker opens a bucket that was created without a TTL of
// markers, as earlier versions did.
func TestDeletedKeyLeavesAnExpiringMarker(t *testing.T) {
	r := newRig(t)
	if _, err := r.js.CreateKeyValue(r.ctx, jetstream.KeyValueConfig{Bucket: stateBucket, History: 1}); err != nil {
		t.Fatal(err)
	}
	s, err := openState(r.ctx, r.js)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Save(r.ctx, "default/pump", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(r.ctx, "default/pump"); err != nil {
		t.Fatal(err)
	}
	if b, err := s.Load(r.ctx, "default/pump"); b != nil || err != nil {
		t.Fatalf("%q, %v", b, err)
	}
	stream, err := r.js.Stream(r.ctx, "KV_"+stateBucket)
	if err != nil {
		t.Fatal(err)
	}
	marker, err := stream.GetLastMsgForSubject(r.ctx, "$KV."+stateBucket+".default/pump")
	if err != nil {
		t.Fatal(err)
	}
	if ttl := marker.Header.Get(jetstream.MsgTTLHeader); ttl != markerTTL.String() {
		t.Errorf("the marker of a deleted key is kept for %q, want %s", ttl, markerTTL)
	}
}
