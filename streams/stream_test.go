package streams_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/streams"
)

func hub(t *testing.T) (context.Context, jetstream.JetStream) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	js, err := jetstream.New(natstest.StartHub(t, "plant-a").Connect(t, "bridge"))
	if err != nil {
		t.Fatal(err)
	}
	if err := streams.Ensure(ctx, js, streams.HubStreams(streams.HubLimits{})); err != nil {
		t.Fatal(err)
	}
	return ctx, js
}

func configMap(size int) streams.Message {
	data := make([]byte, size)
	for i := range data {
		data[i] = byte('a' + rand.IntN(26))
	}
	body, _ := json.Marshal(map[string]any{"metadata": map[string]any{"name": "big.one", "uid": "u1"}, "data": string(data)})
	return streams.Message{
		Ref: streams.Ref{Resource: "configmaps", Namespace: "default", Name: "big.one"},
		Op:  streams.OpPut, UID: "u1", Version: "7", Epoch: "e", Hash: "h", Object: body,
	}
}

// TestLargeObjectIsDelivered stores an object above max_payload and reads it back.
func TestLargeObjectIsDelivered(t *testing.T) {
	ctx, js := hub(t)
	s, err := js.Stream(ctx, streams.Desired)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{10, 3 << 20} {
		want := configMap(size)
		subject := streams.DesiredSubject("plant-a", want.Ref)
		if _, err := streams.Put(ctx, js, subject, want); err != nil {
			t.Fatal(err)
		}
		raw, err := s.GetLastMsgForSubject(ctx, subject)
		if err != nil {
			t.Fatal(err)
		}
		site, got, err := streams.Load(ctx, s, raw.Subject, raw.Header, raw.Data)
		if err != nil {
			t.Fatal(err)
		}
		if site != "plant-a" || got.Ref != want.Ref || got.UID != "u1" || got.Version != "7" || !bytes.Equal(got.Object, want.Object) {
			t.Errorf("object of %d bytes came back as site %q, %+v, %d bytes", size, site, got.Ref, len(got.Object))
		}
	}
}

// TestPartsOfANewerVersionAreNotMixed reads a message whose parts were overwritten.
func TestPartsOfANewerVersionAreNotMixed(t *testing.T) {
	ctx, js := hub(t)
	s, err := js.Stream(ctx, streams.Desired)
	if err != nil {
		t.Fatal(err)
	}
	m := configMap(2 << 20)
	subject := streams.DesiredSubject("plant-a", m.Ref)
	if _, err := streams.Put(ctx, js, subject, m); err != nil {
		t.Fatal(err)
	}
	older, err := s.GetLastMsgForSubject(ctx, subject)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := streams.Put(ctx, js, subject, configMap(2<<20)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := streams.Load(ctx, s, older.Subject, older.Header, older.Data); !errors.Is(err, streams.ErrSuperseded) {
		t.Errorf("Load of a superseded message: %v, want ErrSuperseded", err)
	}
}

// TestSupersedingIsNotAnAcknowledgement delivers two objects to a site that is slow to
// store them, and supersedes the second: the first is still not acknowledged.
func TestSupersedingIsNotAnAcknowledgement(t *testing.T) {
	ctx, js := hub(t)
	if err := streams.EnsureConsumer(ctx, js, streams.Desired, streams.SiteConsumer("plant-a")); err != nil {
		t.Fatal(err)
	}
	deliveries, err := js.Consumer(ctx, streams.Desired, "plant-a")
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string) {
		t.Helper()
		if _, err := js.Publish(ctx, "desired.plant-a._._.configmaps.default."+name, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := deliveries.Next(); err != nil {
			t.Fatal(err)
		}
	}
	put("one")
	put("two")
	put("two")
	var info *jetstream.ConsumerInfo
	for { // until the consumer has dealt with the removal of the first "two"
		c, err := js.Consumer(ctx, streams.Desired, "plant-a")
		if err != nil {
			t.Fatal(err)
		}
		if info = c.CachedInfo(); info.NumAckPending != 3 {
			break
		}
	}
	if info.NumAckPending != 2 || info.AckFloor.Stream != 0 {
		t.Errorf("after one of three deliveries was superseded: %d wait for acknowledgement, floor %d; want 2, 0",
			info.NumAckPending, info.AckFloor.Stream)
	}
}

// TestEnsureReplacesAPushConsumer replaces the consumer that an earlier version created.
func TestEnsureReplacesAPushConsumer(t *testing.T) {
	ctx, js := hub(t)
	want := streams.SiteConsumer("plant-a")
	former := want
	former.DeliverSubject, former.IdleHeartbeat = streams.SyncSubject("plant-a"), streams.SyncHeartbeat
	if _, err := js.CreatePushConsumer(ctx, streams.Desired, former); err != nil {
		t.Fatal(err)
	}
	if err := streams.EnsureConsumer(ctx, js, streams.Desired, want); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Consumer(ctx, streams.Desired, "plant-a"); err != nil {
		t.Error(err)
	}
}

// TestEnsureRepairsDrift changes a stream behind the catalog's back.
func TestEnsureRepairsDrift(t *testing.T) {
	ctx, js := hub(t)
	want := streams.HubStreams(streams.HubLimits{})[0]
	drifted := want
	drifted.MaxMsgsPerSubject, drifted.AllowDirect = 5, false
	if _, err := js.UpdateStream(ctx, drifted); err != nil {
		t.Fatal(err)
	}
	if err := streams.Ensure(ctx, js, streams.HubStreams(streams.HubLimits{})); err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(ctx, streams.Desired)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.CachedInfo().Config; got.MaxMsgsPerSubject != 1 || !got.AllowDirect {
		t.Errorf("after Ensure: max_msgs_per_subject %d, allow_direct %t", got.MaxMsgsPerSubject, got.AllowDirect)
	}
}

// TestQuarantineKeepsTheMessage expects an unreadable message with its reason and its headers.
func TestQuarantineKeepsTheMessage(t *testing.T) {
	ctx, js := hub(t)
	header := map[string][]string{"Nats-Expected-Last-Sequence": {"99"}, streams.HeaderOp: {"bogus"}}
	reason := fmt.Errorf("%w: header", streams.ErrUndecodable)
	if err := streams.QuarantineMessage(ctx, js, streams.Quarantine, "desired.plant-a.x", header, []byte("{"), reason, 0); err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(ctx, streams.Quarantine)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := s.GetLastMsgForSubject(ctx, "quarantine.desired.plant-a.x")
	if err != nil {
		t.Fatal(err)
	}
	if string(raw.Data) != "{" || raw.Header.Get("Original-"+streams.HeaderOp) != "bogus" || raw.Header.Get("Petiole-Reason") != reason.Error() {
		t.Errorf("set aside as %v %q", raw.Header, raw.Data)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("desired.a._._.configmaps.default.x", "put", "u", []byte(`{"metadata":{"name":"x","uid":"u"}}`))
	f.Add("local.reported.n._.pods.default.x", "delete", "", []byte(nil))
	f.Fuzz(func(t *testing.T, subject, op, uid string, body []byte) {
		_, m, err := streams.Decode(subject, map[string][]string{streams.HeaderOp: {op}, streams.HeaderUID: {uid}}, body)
		if err != nil {
			if !errors.Is(err, streams.ErrUndecodable) {
				t.Fatalf("Decode(%q) = %v, want ErrUndecodable", subject, err)
			}
			return
		}
		if err := m.Ref.Validate(); err != nil {
			t.Fatalf("Decode(%q) accepted %+v: %v", subject, m.Ref, err)
		}
	})
}

// TestRefusedLargeObjectChangesNoPart stores an object in parts whose message is rejected
// because another writer was first: the parts of the other writer are unchanged.
func TestRefusedLargeObjectChangesNoPart(t *testing.T) {
	ctx, js := hub(t)
	s, err := js.Stream(ctx, streams.Desired)
	if err != nil {
		t.Fatal(err)
	}
	m := configMap(2 << 20)
	subject := streams.DesiredSubject("plant-a", m.Ref)
	seq, err := streams.Put(ctx, js, subject, m)
	if err != nil {
		t.Fatal(err)
	}
	var api *jetstream.APIError
	if _, err := streams.Put(ctx, js, subject, configMap(3<<20), jetstream.WithExpectLastSequencePerSubject(seq-1)); !errors.As(err, &api) || api.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequence {
		t.Fatalf("Put after another writer: %v, want a wrong last sequence", err)
	}
	raw, err := s.GetLastMsgForSubject(ctx, subject)
	if err != nil {
		t.Fatal(err)
	}
	_, got, err := streams.Load(ctx, s, raw.Subject, raw.Header, raw.Data)
	if err != nil || !bytes.Equal(got.Object, m.Object) {
		t.Errorf("the object that was first cannot be read any more: %v", err)
	}
	if next, err := streams.Put(ctx, js, subject, configMap(3<<20), jetstream.WithExpectLastSequencePerSubject(seq)); err != nil || next <= seq {
		t.Errorf("Put in time: sequence %d, %v", next, err)
	}
}

// TestPartsSeen checks that only an object with all parts of its digest is complete.
func TestPartsSeen(t *testing.T) {
	part := func(hash string) nats.Header { return nats.Header{"Petiole-Part-Hash": {hash}} }
	main := func(hash, n string) nats.Header {
		return nats.Header{"Petiole-Part-Hash": {hash}, streams.HeaderParts: {n}}
	}
	p := streams.PartsSeen{}
	for i, step := range []struct {
		subject string
		header  nats.Header
		want    bool
	}{
		{"desired.a.=part.0", part("x"), false},
		{"desired.a.=part.1", part("x"), false},
		{"desired.a", main("x", "2"), true},
		{"desired.b", main("x", "2"), false},
		{"desired.c.=part.0", part("x"), false},
		{"desired.c.=part.1", part("y"), false},
		{"desired.c", main("y", "2"), false},
		{"desired.d", nats.Header{}, true},
	} {
		if got := p.Add(step.subject, step.header); got != step.want {
			t.Errorf("step %d: %s is whole: %t, want %t", i, step.subject, got, step.want)
		}
	}
}
