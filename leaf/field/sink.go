package field

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/push"
	"github.com/petiole-io/petiole/leaf/field/mqtt"
	"github.com/petiole-io/petiole/streams"
)

// The kinds of telemetry that devices produce, the first token below
// telemetry.<site>.
const (
	kindSample = "sample"
	kindAudit  = "audit"
)

// largeReport is from where on a report is stored by itself, if need be in parts.
const largeReport = 64 << 10

// sink stores what devices tell in the leaf's streams. Every method returns after
// JetStream has stored it.
type sink struct {
	node    string
	js      jetstream.JetStream
	records *recorder // to SITE_TELEMETRY
	reports *recorder // to SITE_REPORTED
	pusher  *push.Pusher
	local   *mqtt.Bridge // nil: nobody follows over MQTT
}

// follow makes pushers and MQTT follow a device as it now is, and tells what is wrong
// with its push methods.
func (s *sink) follow(d *v1beta1.Device) []devices.Problem {
	if s.local != nil {
		s.local.Apply(d)
	}
	return s.pusher.Apply(d)
}

func (s *sink) forget(namespace, name string) {
	s.pusher.Remove(namespace, name)
	if s.local != nil {
		s.local.Remove(namespace, name)
	}
}

func (s *sink) Status(ctx context.Context, device devices.Ref, status *v1beta1.DeviceStatus) error {
	if s.local != nil {
		s.local.Status(device, status)
	}
	return s.report(ctx, streams.OpPut, device.UID, streams.Ref{
		Node: s.node, Group: v1beta1.GroupName, Resource: v1beta1.ResourceDeviceStatuses,
		Namespace: device.Namespace, Name: device.Name,
	}, status)
}

// Samples stores a batch, and then offers it to those who follow.
func (s *sink) Samples(ctx context.Context, b *devices.Samples) error {
	if err := s.record(ctx, kindSample, b.Device, b.Epoch, b.Sequence, b); err != nil {
		return err
	}
	s.pusher.Offer(b)
	if s.local != nil {
		s.local.Samples(b)
	}
	return nil
}

func (s *sink) Audit(ctx context.Context, a *devices.Audit) error {
	return s.record(ctx, kindAudit, a.Device, a.Epoch, a.Sequence, a)
}

// Event reports a Kubernetes Event about the device. Its name follows from what it
// says and when, so that a second attempt stores the same one.
func (s *sink) Event(ctx context.Context, e *devices.Event) error {
	at := metav1.NewTime(time.UnixMilli(e.Time))
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %s %s %d", e.Device.UID, e.Type, e.Reason, e.Message, e.Time))
	event := &corev1.Event{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta: metav1.ObjectMeta{Namespace: e.Device.Namespace, Name: e.Device.Name + "." + hex.EncodeToString(sum[:8])},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: v1beta1.SchemeGroupVersion.String(), Kind: "Device",
			Namespace: e.Device.Namespace, Name: e.Device.Name, UID: types.UID(e.Device.UID),
		},
		Type: e.Type, Reason: e.Reason, Message: e.Message, Count: 1,
		FirstTimestamp: at, LastTimestamp: at,
		Source:              corev1.EventSource{Component: "petiole-devices", Host: s.node},
		ReportingController: "petiole.dev/devices", ReportingInstance: s.node,
	}
	return s.report(ctx, streams.OpCreate, "", streams.Ref{
		Node: s.node, Resource: "events", Namespace: event.Namespace, Name: event.Name,
	}, event)
}

func (s *sink) report(ctx context.Context, op streams.Op, uid string, ref streams.Ref, object any) error {
	body, err := json.Marshal(object)
	if err != nil {
		return fmt.Errorf("encode %s: %w", ref, err)
	}
	m := streams.Message{Ref: ref, Op: op, UID: uid, Object: body}
	subject := streams.LocalReportedSubject(ref)
	if len(body) > largeReport {
		_, err = streams.Put(ctx, s.js, subject, m)
		return err
	}
	return s.reports.store(ctx, &record{msg: m.Encode(subject)})
}

// record stores one numbered record of a device. A record given twice is stored once.
func (s *sink) record(ctx context.Context, kind string, d devices.Ref, epoch int64, seq uint64, content any) error {
	body, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("encode %s of device %s: %w", kind, d, err)
	}
	msg := nats.NewMsg(streams.LocalTelemetrySubject(kind, d.Namespace, d.Name))
	msg.Data = body
	return s.records.store(ctx, &record{msg: msg, epoch: epoch, sequence: seq})
}

// numberOf reads epoch and sequence of a stored record; what is none has zeros.
func numberOf(body []byte) (epoch int64, sequence uint64) {
	var r struct {
		Epoch    int64  `json:"epoch"`
		Sequence uint64 `json:"sequence"`
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return 0, 0
	}
	return r.Epoch, r.Sequence
}
