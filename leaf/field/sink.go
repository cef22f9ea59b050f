package field

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/streams"
)

// The kinds of telemetry that devices produce, the first token below
// telemetry.<site>.
const (
	kindSample = "sample"
	kindAudit  = "audit"
)

// sink stores what devices tell in the leaf's streams. Every method returns after
// JetStream has stored it.
type sink struct {
	node string
	js   jetstream.JetStream
}

func (s *sink) Status(ctx context.Context, device devices.Ref, status *v1beta1.DeviceStatus) error {
	return s.report(ctx, streams.OpPut, device.UID, streams.Ref{
		Node: s.node, Group: v1beta1.GroupName, Resource: v1beta1.ResourceDeviceStatuses,
		Namespace: device.Namespace, Name: device.Name,
	}, status)
}

func (s *sink) Samples(ctx context.Context, b *devices.Samples) error {
	return s.record(ctx, kindSample, b.Device, b.Epoch, b.Sequence, b)
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
	_, err = streams.Put(ctx, s.js, streams.LocalReportedSubject(ref), m)
	return err
}

// record stores one numbered record of a device. The message id is the record's
// number, so that a record given twice is stored once.
func (s *sink) record(ctx context.Context, kind string, d devices.Ref, epoch int64, seq uint64, record any) error {
	body, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encode %s of device %s: %w", kind, d, err)
	}
	id := fmt.Sprintf("%s.%s.%d.%d", kind, d.UID, epoch, seq)
	subject := streams.LocalTelemetrySubject(kind, d.Namespace, d.Name)
	if _, err := s.js.Publish(ctx, subject, body, jetstream.WithMsgID(id)); err != nil {
		return fmt.Errorf("store %s of device %s: %w", kind, d, err)
	}
	return nil
}
