package host

import (
	"context"
	"sync"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// registry has all workers, devices and models. It belongs to the goroutine of Run.
type registry struct {
	host    *Host
	wg      sync.WaitGroup
	workers map[string]*worker
	devices map[string]*v1beta1.Device
	origins map[string]origin
	models  map[string]*v1beta1.DeviceModel
}

func (r *registry) applyDevice(ctx context.Context, d *v1beta1.Device, o origin) {
	ref := devices.RefOf(d)
	k := ref.String()
	w := r.workers[k]
	if w != nil && w.device.UID == ref.UID && o.older(r.origins[k]) {
		r.host.counters.Stale.Add(1)
		r.host.log.Info("older Device object ignored", zap.Stringer("device", ref), zap.String("version", o.Version), zap.Int64("generation", o.Generation))
		return
	}
	if d.Spec.NodeName != r.host.node {
		r.deleteDevice(devices.Ref{Namespace: ref.Namespace, Name: ref.Name})
		return
	}
	var after <-chan struct{}
	if w != nil && w.device.UID != ref.UID { // recreated: the old worker stops before the new one starts
		after = r.deleteDevice(w.device).stopped
		w = nil
	}
	if w == nil {
		w = newWorker(r.host, ref)
		r.workers[k] = w
		r.wg.Go(func() { w.run(ctx, after) })
	}
	r.devices[k], r.origins[k] = d, o
	w.assign(target{device: d, model: r.modelOf(d), origin: o})
}

func (r *registry) applyModel(m *v1beta1.DeviceModel) {
	r.models[m.Namespace+"/"+m.Name] = m
	r.reassign(m.Namespace, m.Name)
}

func (r *registry) deleteModel(namespace, name string) {
	delete(r.models, namespace+"/"+name)
	r.reassign(namespace, name)
}

func (r *registry) reassign(namespace, name string) {
	for k, d := range r.devices {
		if d.Namespace == namespace && d.Spec.DeviceModelRef != nil && d.Spec.DeviceModelRef.Name == name {
			r.workers[k].assign(target{device: d, model: r.modelOf(d), origin: r.origins[k]})
		}
	}
}

func (r *registry) modelOf(d *v1beta1.Device) *v1beta1.DeviceModel {
	if d.Spec.DeviceModelRef == nil {
		return nil
	}
	return r.models[d.Namespace+"/"+d.Spec.DeviceModelRef.Name]
}

// deleteDevice ends a worker, which deletes its saved state. It returns the worker, or nil if
// there is none with that name and UID.
func (r *registry) deleteDevice(ref devices.Ref) *worker {
	k := ref.String()
	w := r.workers[k]
	if w == nil || (ref.UID != "" && w.device.UID != ref.UID) {
		return nil
	}
	delete(r.workers, k)
	delete(r.devices, k)
	delete(r.origins, k)
	w.end()
	return w
}
