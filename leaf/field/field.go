// Package field connects a site's devices to its streams: it feeds the device host
// from SITE_DESIRED and stores what the devices tell in SITE_REPORTED and
// SITE_TELEMETRY.
//
// It acknowledges a message after the device's worker has taken the object over, and
// tells the worker that something is stored after the leaf's JetStream has answered.
// It knows no protocol: drivers are given to it. The leaf runs it.
package field

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/streams"
)

// retryDelay is after how long a message that could not be taken over comes again.
const retryDelay = time.Second

// Config is what a Field needs. All fields are required.
type Config struct {
	Site, Node string
	JS         jetstream.JetStream
	Drivers    []devices.Driver
	Log        *zap.Logger
}

// Field operates the devices of one node of a site.
type Field struct {
	cfg         Config
	quarantined atomic.Uint64
}

// New returns a Field that does nothing yet.
func New(cfg Config) *Field { return &Field{cfg: cfg} }

// Quarantined counts the messages that could not be read since the start.
func (f *Field) Quarantined() uint64 { return f.quarantined.Load() }

// Run operates the devices until ctx ends.
func (f *Field) Run(ctx context.Context) error {
	state, err := openState(ctx, f.cfg.JS)
	if err != nil {
		return err
	}
	host, err := devices.New(devices.Config{
		Node: f.cfg.Node, Drivers: f.cfg.Drivers, State: state, Log: f.cfg.Log,
		Sink: &sink{node: f.cfg.Node, js: f.cfg.JS},
	})
	if err != nil {
		return fmt.Errorf("make device host: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return host.Run(ctx) })
	group.Go(func() error { return f.consume(ctx, host) })
	return group.Wait()
}

// consume brings the host to the state of SITE_DESIRED and then follows it. The
// durable consumer's position is progress for people to see, not truth: after a
// restart the host knows nothing, so everything is read once.
func (f *Field) consume(ctx context.Context, host *devices.Host) error {
	stream, err := f.cfg.JS.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return fmt.Errorf("open %s: %w", streams.SiteDesired, err)
	}
	var filters []string
	for _, resource := range []string{v1beta1.ResourceDeviceModels, v1beta1.ResourceDevices} {
		filters = append(filters, streams.DesiredResourceFilter(f.cfg.Site, "*", v1beta1.GroupName, resource))
	}
	if err := f.readAll(ctx, stream, host, filters); err != nil {
		return err
	}
	c, err := stream.CreateOrUpdateConsumer(ctx, streams.LocalConsumer(streams.DevicesConsumer, "what the device worker has taken over", 1, filters...))
	if err != nil {
		return fmt.Errorf("open consumer %s: %w", streams.DevicesConsumer, err)
	}
	messages, err := c.Messages(jetstream.PullMaxMessages(64))
	if err != nil {
		return fmt.Errorf("consume %s: %w", streams.SiteDesired, err)
	}
	defer context.AfterFunc(ctx, messages.Stop)()
	for {
		msg, err := messages.Next()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("consume %s: %w", streams.SiteDesired, err)
		}
		if err := f.take(ctx, stream, host, msg.Subject(), msg.Headers(), msg.Data()); err != nil {
			f.cfg.Log.Warn("device message comes again", zap.String("subject", msg.Subject()), zap.Error(err))
			err = msg.NakWithDelay(retryDelay)
			if err != nil {
				return fmt.Errorf("refuse %s: %w", msg.Subject(), err)
			}
			continue
		}
		if err := msg.Ack(); err != nil {
			return fmt.Errorf("acknowledge %s: %w", msg.Subject(), err)
		}
	}
}

// readAll takes the last message of every subject.
func (f *Field) readAll(ctx context.Context, stream jetstream.Stream, host *devices.Host, filters []string) error {
	c, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		FilterSubjects: filters, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy,
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", streams.SiteDesired, err)
	}
	info, err := c.Info(ctx)
	if err != nil {
		return fmt.Errorf("read %s: %w", streams.SiteDesired, err)
	}
	for pending := info.NumPending; pending > 0; {
		msg, err := c.Next(jetstream.FetchContext(ctx))
		if err != nil {
			return fmt.Errorf("read %s: %w", streams.SiteDesired, err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("read %s: %w", streams.SiteDesired, err)
		}
		pending = meta.NumPending
		// One that is unreadable is set aside here too: it may never have been consumed.
		if err := f.take(ctx, stream, host, msg.Subject(), msg.Headers(), msg.Data()); err != nil {
			return err
		}
	}
	return nil
}

// take gives one message to the host. It returns nil when the message may be
// acknowledged: taken over, superseded, or set aside as unreadable.
func (f *Field) take(ctx context.Context, stream jetstream.Stream, host *devices.Host, subject string, header nats.Header, data []byte) error {
	if streams.IsPart(subject) {
		return nil
	}
	_, m, err := streams.Load(ctx, stream, subject, header, data)
	if err == nil {
		err = apply(ctx, host, m)
	}
	switch {
	case errors.Is(err, streams.ErrSuperseded):
		return nil
	case errors.Is(err, streams.ErrUndecodable):
		f.quarantined.Add(1)
		f.cfg.Log.Warn("device message set aside", zap.String("subject", subject), zap.Error(err))
		return streams.SetAside(ctx, f.cfg.JS, streams.SiteQuarantine, subject, header, data, err)
	}
	return err
}

func apply(ctx context.Context, host *devices.Host, m streams.Message) error {
	switch {
	case m.Resource == v1beta1.ResourceDevices && m.Op == streams.OpDelete:
		return host.DeleteDevice(ctx, m.Namespace, m.Name, m.UID)
	case m.Resource == v1beta1.ResourceDevices:
		device := &v1beta1.Device{}
		if err := decode(m, device); err != nil {
			return err
		}
		return host.ApplyDevice(ctx, device, m.Version)
	case m.Op == streams.OpDelete:
		return host.DeleteModel(ctx, m.Namespace, m.Name)
	default:
		model := &v1beta1.DeviceModel{}
		if err := decode(m, model); err != nil {
			return err
		}
		return host.ApplyModel(ctx, model, m.Version)
	}
}

func decode(m streams.Message, into any) error {
	if err := json.Unmarshal(m.Object, into); err != nil {
		return fmt.Errorf("%w: %s: %w", streams.ErrUndecodable, m.Ref, err)
	}
	return nil
}
