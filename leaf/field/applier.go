package field

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/host"
	"github.com/petiole-io/petiole/internal/logonce"
	"github.com/petiole-io/petiole/streams"
)

const (
	// retryDelay is the delay before a failed step is tried again.
	retryDelay = time.Second
	// partAttempts is the number of deliveries after which a large object with a missing
	// part is quarantined: until then the part may still arrive.
	partAttempts = 30
)

// applyOperation names applier.run in the log.
const applyOperation = "apply devices"

// errPartMissing reports that a part of a large object is not in the stream.
var errPartMissing = errors.New("part missing")

// applier applies the Devices and DeviceModels of SITE_DESIRED to the device host, the
// device index, the pushers and the MQTT gateway.
type applier struct {
	*Field
	host  *host.Host
	sink  *sink
	index *deviceIndex
	// reportedProblems holds the problems that were reported in Events, by device.
	reportedProblems map[string]string
	// loaded is closed when everything that was in the stream at the start is applied.
	loaded chan struct{}
	once   sync.Once
	// outcomes logs when run starts to fail and when it has recovered.
	outcomes *logonce.Reporter
}

func newApplier(f *Field, h *host.Host, s *sink) *applier {
	return &applier{Field: f, host: h, sink: s, index: newDeviceIndex(), reportedProblems: map[string]string{}, loaded: make(chan struct{}), outcomes: logonce.New(f.cfg.Log)}
}

// whenLoaded calls run as soon as all devices are known. It returns nil if ctx ends first.
func (a *applier) whenLoaded(ctx context.Context, run func(context.Context) error) error {
	select {
	case <-ctx.Done():
		return nil
	case <-a.loaded:
		return run(ctx)
	}
}

// run applies messages until ctx ends. It starts again after an error, such as a restart of
// the server or a new stream.
func (a *applier) run(ctx context.Context) error {
	for {
		err := a.consume(ctx)
		if ctx.Err() != nil {
			return nil
		}
		a.outcomes.Report(applyOperation, err, zap.String("stream", streams.SiteDesired))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryDelay):
		}
	}
}

// consume applies the present content of SITE_DESIRED and then every new message. The
// position of the durable consumer only shows progress: the host knows nothing after a
// restart, so everything is read once.
//
// The consumer is reset to its acknowledgement floor. Otherwise a message that was delivered
// before a restart and not acknowledged would block all others, deletions included, until
// its AckWait expires.
func (a *applier) consume(ctx context.Context) error {
	stream, err := a.cfg.JS.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return fmt.Errorf("open %s: %w", streams.SiteDesired, err)
	}
	var filters []string
	for _, resource := range []string{v1beta1.ResourceDeviceModels, v1beta1.ResourceDevices} {
		filters = append(filters, streams.DesiredResourceFilter(a.cfg.Site, "*", v1beta1.GroupName, resource))
	}
	if err := a.load(ctx, stream, filters); err != nil {
		return err
	}
	a.once.Do(func() { close(a.loaded) })
	c, err := stream.CreateOrUpdateConsumer(ctx, streams.LocalConsumer(streams.DevicesConsumer, "what the device worker has applied", 1, filters...))
	if err != nil {
		return fmt.Errorf("open consumer %s: %w", streams.DevicesConsumer, err)
	}
	if _, err := stream.ResetConsumer(ctx, streams.DevicesConsumer); err != nil {
		return fmt.Errorf("reset consumer %s: %w", streams.DevicesConsumer, err)
	}
	messages, err := c.Messages(jetstream.PullMaxMessages(64))
	if err != nil {
		return fmt.Errorf("consume %s: %w", streams.SiteDesired, err)
	}
	defer messages.Stop()
	a.outcomes.Report(applyOperation, nil, zap.String("stream", streams.SiteDesired))
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("consume %s: %w", streams.SiteDesired, err)
		}
		if err := a.handle(ctx, stream, msg); err != nil {
			return err
		}
	}
}

// handle processes one message and acknowledges it, or has it delivered again.
func (a *applier) handle(ctx context.Context, stream jetstream.Stream, msg jetstream.Msg) error {
	meta, err := msg.Metadata()
	if err != nil {
		return fmt.Errorf("read %s: %w", msg.Subject(), err)
	}
	err = a.process(ctx, stream, msg)
	if errors.Is(err, errPartMissing) && meta.NumDelivered >= partAttempts {
		err = a.quarantine(ctx, msg.Subject(), msg.Headers(), msg.Data(), fmt.Errorf("%w: %w", streams.ErrUndecodable, err))
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return err // not applied: it is delivered again after the restart
	}
	if err != nil {
		a.cfg.Log.Warn("device not applied: retrying", zap.String("subject", msg.Subject()), zap.Error(err))
		if err := msg.NakWithDelay(a.retry); err != nil {
			return fmt.Errorf("negatively acknowledge %s: %w", msg.Subject(), err)
		}
		return nil
	}
	if err := msg.Ack(); err != nil {
		return fmt.Errorf("acknowledge %s: %w", msg.Subject(), err)
	}
	return nil
}

// load processes the last message of every subject.
func (a *applier) load(ctx context.Context, stream jetstream.Stream, filters []string) error {
	err := streams.ReadLast(ctx, stream, filters, func(msg jetstream.Msg, _ *jetstream.MsgMetadata) error {
		// An unreadable message is quarantined here too: it may never have been consumed.
		err := a.process(ctx, stream, msg)
		if errors.Is(err, errPartMissing) { // consume tries it again
			a.cfg.Log.Warn("device has a missing part: skipped", zap.String("subject", msg.Subject()), zap.Error(err))
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", streams.SiteDesired, err)
	}
	return nil
}

// process applies one message. It returns nil if the message may be acknowledged because it
// was applied, is superseded, or was quarantined as unreadable.
func (a *applier) process(ctx context.Context, stream jetstream.Stream, msg jetstream.Msg) error {
	if streams.IsPart(msg.Subject()) {
		return nil
	}
	_, m, err := streams.Load(ctx, stream, msg.Subject(), msg.Headers(), msg.Data())
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return fmt.Errorf("%w: %w", errPartMissing, err)
	}
	if err == nil {
		err = a.apply(ctx, m)
	}
	switch {
	case errors.Is(err, streams.ErrSuperseded):
		return nil
	case errors.Is(err, streams.ErrUndecodable):
		return a.quarantine(ctx, msg.Subject(), msg.Headers(), msg.Data(), err)
	}
	return err
}

func (a *applier) apply(ctx context.Context, m streams.Message) error {
	switch {
	case m.Resource == v1beta1.ResourceDevices && m.Op == streams.OpDelete:
		return a.deleteDevice(ctx, m)
	case m.Resource == v1beta1.ResourceDevices:
		device := &v1beta1.Device{}
		if err := decode(m, device); err != nil {
			return err
		}
		return a.applyDevice(ctx, m, device)
	case m.Op == streams.OpDelete:
		return a.host.DeleteModel(ctx, m.Namespace, m.Name)
	default:
		model := &v1beta1.DeviceModel{}
		if err := decode(m, model); err != nil {
			return err
		}
		return a.host.ApplyModel(ctx, model, m.Version)
	}
}

// applyDevice applies a device to the followers and to the host. For a device of another
// node the host decides first: it keeps operating the device if it has a newer version that
// is bound to this node.
func (a *applier) applyDevice(ctx context.Context, m streams.Message, d *v1beta1.Device) error {
	if d.Spec.NodeName == a.cfg.Node {
		a.updateFollowers(ctx, d)
		return a.host.ApplyDeviceFrom(ctx, m.Epoch, d, m.Version)
	}
	if err := a.host.ApplyDeviceFrom(ctx, m.Epoch, d, m.Version); err != nil {
		return err
	}
	operated, err := a.host.Operates(ctx, d.Namespace, d.Name)
	if err == nil && !operated {
		a.updateFollowers(ctx, d)
	}
	return err
}

// deleteDevice removes a device. The tombstone of one node does not apply to a device that
// has moved to another node.
func (a *applier) deleteDevice(ctx context.Context, m streams.Message) error {
	if node, ok := a.index.nodeOf(m.Namespace, m.Name); !ok || node == m.Node {
		a.removeFollowers(m.Namespace, m.Name)
	}
	if m.Node != a.cfg.Node {
		return nil
	}
	return a.host.DeleteDevice(ctx, m.Namespace, m.Name, m.UID)
}

// updateFollowers updates the index, the pushers and the MQTT gateway. It is called before
// the host operates the device, so that they miss no sample.
func (a *applier) updateFollowers(ctx context.Context, d *v1beta1.Device) {
	a.index.put(d.Namespace, d.Name, d.Spec.NodeName)
	if d.Spec.NodeName != a.cfg.Node {
		a.sink.removeDevice(d.Namespace, d.Name)
		return
	}
	problems := a.sink.setDevice(d)
	k, text := d.Namespace+"/"+d.Name, fmt.Sprint(problems)
	if a.reportedProblems[k] == text {
		return
	}
	a.reportedProblems[k] = text
	for _, p := range problems {
		a.cfg.Log.Warn("push method not supported or invalid", zap.String("device", k), zap.String("property", p.Property), zap.String("reason", p.Reason))
		err := a.sink.Event(ctx, &devices.Event{
			Device: devices.Ref{Namespace: d.Namespace, Name: d.Name, UID: string(d.UID)}, Node: a.cfg.Node,
			Type: devices.EventWarning, Reason: p.Reason, Message: "property " + p.Property + ": " + p.Message, Time: time.Now().UnixMilli(),
		})
		if err != nil {
			a.cfg.Log.Warn("store device event", zap.String("device", k), zap.Error(err))
			delete(a.reportedProblems, k)
		}
	}
}

func (a *applier) removeFollowers(namespace, name string) {
	a.index.remove(namespace, name)
	delete(a.reportedProblems, namespace+"/"+name)
	a.sink.removeDevice(namespace, name)
}

func decode(m streams.Message, into any) error {
	if err := json.Unmarshal(m.Object, into); err != nil {
		return fmt.Errorf("%w: %s: %w", streams.ErrUndecodable, m.Ref, err)
	}
	return nil
}
