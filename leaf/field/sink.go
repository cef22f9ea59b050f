package field

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
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
	kindSample = streams.SampleKind
	kindAudit  = "audit"
)

// largeReport is the size above which a report is stored on its own, in parts if necessary.
const largeReport = streams.PartBytes

// sampleBytes is what a sample takes in a record, about.
const sampleBytes = 96

// sink implements devices.Sink: it stores what devices report in the leaf's streams. Each of
// the methods of devices.Sink returns after JetStream has stored the message.
type sink struct {
	node      string
	js        jetstream.JetStream
	telemetry *groupWriter // of SITE_TELEMETRY
	reported  *groupWriter // of SITE_REPORTED
	pusher    *push.Pusher
	mqtt      *mqtt.Gateway // nil if MQTT is disabled
	drivers   []devices.Driver
}

// setDevice tells the pushers and the MQTT gateway about a new or changed device. It returns
// the problems of its push methods. A mapper gets all push methods and may carry out those that
// the leaf does not support, so that they are no problem of a mapper's device.
func (s *sink) setDevice(d *v1beta1.Device) []devices.Problem {
	if s.mqtt != nil {
		s.mqtt.Apply(d)
	}
	problems := s.pusher.Apply(d)
	if s.mapped(d.Spec.Protocol.ProtocolName) {
		problems = slices.DeleteFunc(problems, func(p devices.Problem) bool { return p.Reason == push.ReasonUnsupported })
	}
	return problems
}

// mapped reports whether mappers operate the devices of a protocol. It returns false if the name is
// empty, because the protocol is then the model's.
func (s *sink) mapped(protocol string) bool {
	protocol = strings.TrimSpace(protocol)
	drives := func(name string) bool {
		return slices.ContainsFunc(s.drivers, func(d devices.Driver) bool {
			return slices.ContainsFunc(d.Protocols(), func(p string) bool { return strings.EqualFold(p, name) })
		})
	}
	return protocol != "" && !drives(protocol) && drives(devices.AnyProtocol)
}

func (s *sink) removeDevice(namespace, name string) {
	s.pusher.Remove(namespace, name)
	if s.mqtt != nil {
		s.mqtt.Remove(namespace, name)
	}
}

func (s *sink) Status(ctx context.Context, device devices.Ref, status *v1beta1.DeviceStatus) error {
	if s.mqtt != nil {
		s.mqtt.Status(device, status)
	}
	return s.report(ctx, streams.OpPut, device.UID, s.statusRef(device), status)
}

// LastStatus implements devices.StatusReader.
func (s *sink) LastStatus(ctx context.Context, device devices.Ref) (*v1beta1.DeviceStatus, error) {
	ref := s.statusRef(device)
	stream, err := s.js.Stream(ctx, streams.SiteReported)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", ref, err)
	}
	subject := streams.LocalReportedSubject(ref)
	last, err := stream.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", ref, err)
	}
	_, m, err := streams.Load(ctx, stream, subject, last.Header, last.Data)
	if err != nil || m.Op != streams.OpPut {
		return nil, err
	}
	status := new(v1beta1.DeviceStatus)
	if err := json.Unmarshal(m.Object, status); err != nil {
		return nil, fmt.Errorf("decode %s: %w", ref, err)
	}
	return status, nil
}

func (s *sink) statusRef(device devices.Ref) streams.Ref {
	return streams.Ref{
		Node: s.node, Group: v1beta1.GroupName, Resource: v1beta1.ResourceDeviceStatuses,
		Namespace: device.Namespace, Name: device.Name,
	}
}

// Samples stores a batch, and then passes it to the pushers and the MQTT gateway.
func (s *sink) Samples(ctx context.Context, b *devices.Samples) error {
	body, err := b.AppendJSON(make([]byte, 0, sampleBytes*(len(b.Samples)+2)))
	if err != nil {
		return fmt.Errorf("encode samples of device %s: %w", b.Device, err)
	}
	if err := s.storeRecord(ctx, kindSample, b.Device, b.Epoch, b.Sequence, b.Clock, body); err != nil {
		return err
	}
	s.pusher.Offer(b)
	if s.mqtt != nil {
		s.mqtt.Samples(b)
	}
	return nil
}

func (s *sink) Audit(ctx context.Context, a *devices.Audit) error {
	body, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encode audit of device %s: %w", a.Device, err)
	}
	return s.storeRecord(ctx, kindAudit, a.Device, a.Epoch, a.Sequence, a.Clock, body)
}

// Event reports a Kubernetes Event about the device. Its name is a digest of its content and
// time, so that a second attempt stores the same Event.
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
	return s.reported.store(ctx, &record{msg: m.Encode(subject)})
}

// storeRecord stores a numbered record of a device. A record that is given twice is stored
// once.
func (s *sink) storeRecord(ctx context.Context, kind string, d devices.Ref, epoch int64, seq uint64, mark *devices.ClockMark, body []byte) error {
	msg := nats.NewMsg(streams.LocalTelemetrySubject(kind, d.Namespace, d.Name))
	msg.Data = body
	if mark != nil {
		msg.Header.Set(streams.HeaderClock, mark.State)
	}
	return s.telemetry.store(ctx, &record{msg: msg, epoch: epoch, sequence: seq})
}

// recordNumber returns epoch and sequence of a stored record, zeros if body is not a record.
func recordNumber(body []byte) (epoch int64, sequence uint64) {
	var r struct {
		Epoch    int64  `json:"epoch"`
		Sequence uint64 `json:"sequence"`
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return 0, 0
	}
	return r.Epoch, r.Sequence
}
