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
	"github.com/petiole-io/petiole/streams"
)

const (
	// retryDelay is after how long what did not succeed is tried again.
	retryDelay = time.Second
	// partAttempts is how often a large object comes whose parts are not all there: one
	// may still arrive, but not for ever.
	partAttempts = 30
)

// errPartMissing reports a large object of which a part is not in the stream.
var errPartMissing = errors.New("part missing")

// feed brings Devices and DeviceModels from SITE_DESIRED to the host and to those who
// follow its devices.
type feed struct {
	*Field
	host   *devices.Host
	sink   *sink
	roster *roster
	// complained are the problems that were told in events, by device.
	complained map[string]string
	// ready is closed, once, when everything that was in the stream has been taken over.
	ready chan struct{}
	once  sync.Once
}

func newFeed(f *Field, host *devices.Host, s *sink) *feed {
	return &feed{Field: f, host: host, sink: s, roster: newRoster(), complained: map[string]string{}, ready: make(chan struct{})}
}

// whenReady runs what must know all devices.
func (f *feed) whenReady(ctx context.Context, run func(context.Context) error) error {
	select {
	case <-ctx.Done():
		return nil
	case <-f.ready:
		return run(ctx)
	}
}

// follow consumes until ctx ends. It outlives restarts of the server and of the stream.
func (f *feed) follow(ctx context.Context) error {
	for failing := false; ; failing = true {
		err := f.consume(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if !failing {
			f.cfg.Log.Warn("following the devices interrupted", zap.String("stream", streams.SiteDesired), zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryDelay):
		}
	}
}

// consume brings the host to the state of SITE_DESIRED and then follows it. The
// durable consumer's position is progress for people to see, not truth: after a
// restart the host knows nothing, so everything is read once.
//
// The consumer is reset to what it has acknowledged: a message that an earlier life was
// given and did not acknowledge would otherwise hold up all others, a deletion among
// them, until its time to acknowledge is over.
func (f *feed) consume(ctx context.Context) error {
	stream, err := f.cfg.JS.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return fmt.Errorf("open %s: %w", streams.SiteDesired, err)
	}
	var filters []string
	for _, resource := range []string{v1beta1.ResourceDeviceModels, v1beta1.ResourceDevices} {
		filters = append(filters, streams.DesiredResourceFilter(f.cfg.Site, "*", v1beta1.GroupName, resource))
	}
	if err := f.readAll(ctx, stream, filters); err != nil {
		return err
	}
	f.once.Do(func() { close(f.ready) })
	c, err := stream.CreateOrUpdateConsumer(ctx, streams.LocalConsumer(streams.DevicesConsumer, "what the device worker has taken over", 1, filters...))
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
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("consume %s: %w", streams.SiteDesired, err)
		}
		if err := f.handle(ctx, stream, msg); err != nil {
			return err
		}
	}
}

// handle takes one message over and acknowledges it, or has it come again.
func (f *feed) handle(ctx context.Context, stream jetstream.Stream, msg jetstream.Msg) error {
	meta, err := msg.Metadata()
	if err != nil {
		return fmt.Errorf("read %s: %w", msg.Subject(), err)
	}
	err = f.take(ctx, stream, msg)
	if errors.Is(err, errPartMissing) && meta.NumDelivered >= partAttempts {
		err = f.setAside(ctx, msg.Subject(), msg.Headers(), msg.Data(), fmt.Errorf("%w: %w", streams.ErrUndecodable, err))
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return err // not taken over: the next life is given it again
	}
	if err != nil {
		f.cfg.Log.Warn("device message comes again", zap.String("subject", msg.Subject()), zap.Error(err))
		if err := msg.NakWithDelay(f.retry); err != nil {
			return fmt.Errorf("refuse %s: %w", msg.Subject(), err)
		}
		return nil
	}
	if err := msg.Ack(); err != nil {
		return fmt.Errorf("acknowledge %s: %w", msg.Subject(), err)
	}
	return nil
}

// readAll takes the last message of every subject.
func (f *feed) readAll(ctx context.Context, stream jetstream.Stream, filters []string) error {
	err := streams.ReadLast(ctx, stream, filters, func(msg jetstream.Msg, _ *jetstream.MsgMetadata) error {
		// One that is unreadable is set aside here too: it may never have been consumed.
		err := f.take(ctx, stream, msg)
		if errors.Is(err, errPartMissing) { // the consumer waits for it
			f.cfg.Log.Warn("device message lacks a part", zap.String("subject", msg.Subject()), zap.Error(err))
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", streams.SiteDesired, err)
	}
	return nil
}

// take gives one message to the host. It returns nil when the message may be
// acknowledged: taken over, superseded, or set aside as unreadable.
func (f *feed) take(ctx context.Context, stream jetstream.Stream, msg jetstream.Msg) error {
	if streams.IsPart(msg.Subject()) {
		return nil
	}
	_, m, err := streams.Load(ctx, stream, msg.Subject(), msg.Headers(), msg.Data())
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return fmt.Errorf("%w: %w", errPartMissing, err)
	}
	if err == nil {
		err = f.apply(ctx, m)
	}
	switch {
	case errors.Is(err, streams.ErrSuperseded):
		return nil
	case errors.Is(err, streams.ErrUndecodable):
		return f.setAside(ctx, msg.Subject(), msg.Headers(), msg.Data(), err)
	}
	return err
}

func (f *feed) apply(ctx context.Context, m streams.Message) error {
	switch {
	case m.Resource == v1beta1.ResourceDevices && m.Op == streams.OpDelete:
		return f.delete(ctx, m)
	case m.Resource == v1beta1.ResourceDevices:
		device := &v1beta1.Device{}
		if err := decode(m, device); err != nil {
			return err
		}
		return f.put(ctx, m, device)
	case m.Op == streams.OpDelete:
		return f.host.DeleteModel(ctx, m.Namespace, m.Name)
	default:
		model := &v1beta1.DeviceModel{}
		if err := decode(m, model); err != nil {
			return err
		}
		return f.host.ApplyModel(ctx, model, m.Version)
	}
}

// put gives a device to the host. Of one that is bound to another node the host speaks
// first: it goes on with a newer object that binds the device here.
func (f *feed) put(ctx context.Context, m streams.Message, d *v1beta1.Device) error {
	if d.Spec.NodeName == f.cfg.Node {
		f.announce(ctx, d)
		return f.host.ApplyDeviceFrom(ctx, m.Epoch, d, m.Version)
	}
	if err := f.host.ApplyDeviceFrom(ctx, m.Epoch, d, m.Version); err != nil {
		return err
	}
	stays, err := f.host.Operates(ctx, d.Namespace, d.Name)
	if err == nil && !stays {
		f.announce(ctx, d)
	}
	return err
}

// delete ends a device. What is said of a node tells nothing of a device that has moved to
// another one.
func (f *feed) delete(ctx context.Context, m streams.Message) error {
	if at, ok := f.roster.nodeOf(m.Namespace, m.Name); !ok || at == m.Node {
		f.forget(m.Namespace, m.Name)
	}
	if m.Node != f.cfg.Node {
		return nil
	}
	return f.host.DeleteDevice(ctx, m.Namespace, m.Name, m.UID)
}

// announce tells the others about a device before the host operates it, so that they
// miss nothing.
func (f *feed) announce(ctx context.Context, d *v1beta1.Device) {
	f.roster.put(d.Namespace, d.Name, d.Spec.NodeName)
	if d.Spec.NodeName != f.cfg.Node {
		f.sink.forget(d.Namespace, d.Name)
		return
	}
	problems := f.sink.follow(d)
	k, text := d.Namespace+"/"+d.Name, fmt.Sprint(problems)
	if f.complained[k] == text {
		return
	}
	f.complained[k] = text
	for _, p := range problems {
		f.cfg.Log.Warn("push method not followed", zap.String("device", k), zap.String("property", p.Property), zap.String("reason", p.Reason))
		err := f.sink.Event(ctx, &devices.Event{
			Device: devices.Ref{Namespace: d.Namespace, Name: d.Name, UID: string(d.UID)}, Node: f.cfg.Node,
			Type: devices.EventWarning, Reason: p.Reason, Message: "property " + p.Property + ": " + p.Message, Time: time.Now().UnixMilli(),
		})
		if err != nil {
			f.cfg.Log.Warn("event not stored", zap.String("device", k), zap.Error(err))
			delete(f.complained, k)
		}
	}
}

func (f *feed) forget(namespace, name string) {
	f.roster.remove(namespace, name)
	delete(f.complained, namespace+"/"+name)
	f.sink.forget(namespace, name)
}

func decode(m streams.Message, into any) error {
	if err := json.Unmarshal(m.Object, into); err != nil {
		return fmt.Errorf("%w: %s: %w", streams.ErrUndecodable, m.Ref, err)
	}
	return nil
}
