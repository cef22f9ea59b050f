package field

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/host"
	"github.com/petiole-io/petiole/leaf/apply"
	"github.com/petiole-io/petiole/streams"
)

// applier applies the Devices and DeviceModels of SITE_DESIRED to the device host, the
// device index, the pushers and the MQTT gateway.
type applier struct {
	*Field
	host  *host.Host
	sink  *sink
	index *deviceIndex
	// reportedProblems holds the problems that were reported in Events, by device.
	reportedProblems map[string]string
	desired          *apply.Applier
}

func newApplier(f *Field, h *host.Host, s *sink) *applier {
	a := &applier{Field: f, host: h, sink: s, index: newDeviceIndex(), reportedProblems: map[string]string{}}
	var filters []string
	for _, resource := range []string{v1beta1.ResourceDeviceModels, v1beta1.ResourceDevices} {
		filters = append(filters, streams.DesiredResourceFilter(f.cfg.Site, "*", v1beta1.GroupName, resource))
	}
	a.desired = apply.New(apply.Config{
		JS: f.cfg.JS, Log: f.cfg.Log, Apply: a.apply, RetryDelay: f.retry,
		Consumer: streams.LocalConsumer(streams.DevicesConsumer, "what the device worker has applied", 1, filters...),
	})
	return a
}

// whenLoaded calls run as soon as all devices are known. It returns nil if ctx ends first.
func (a *applier) whenLoaded(ctx context.Context, run func(context.Context) error) error {
	select {
	case <-ctx.Done():
		return nil
	case <-a.desired.Loaded():
		return run(ctx)
	}
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
