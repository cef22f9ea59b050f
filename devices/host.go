package devices

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// ErrStopped reports a call to a Host whose Run has returned.
var ErrStopped = errors.New("device host stopped")

// Config is what a Host needs. All fields but the last two are required.
type Config struct {
	// Node is the name of the node whose devices are operated. A device bound to
	// another node is treated as deleted.
	Node string
	// Drivers are asked by protocol name.
	Drivers []Driver
	// Sink takes what the devices tell.
	Sink Sink
	// State survives restarts.
	State State
	// Log may be nil.
	Log *zap.Logger
	// StatusInterval is the shortest time between two statuses of one device; zero: 1 s.
	// A change after a longer silence is told at once. A device may have a longer one.
	StatusInterval time.Duration
}

// Host operates the devices of one node. Its methods are safe for concurrent use.
type Host struct {
	node     string
	drivers  map[string]Driver
	sink     Sink
	state    State
	log      *zap.Logger
	interval time.Duration
	meters   *meters

	ops     chan op
	stopped chan struct{}
	once    sync.Once
}

type op struct {
	do   func(context.Context, *roster) error
	done chan error
}

// New makes a Host that does nothing yet. It fails when something required is
// missing or two drivers claim one protocol.
func New(c Config) (*Host, error) {
	var errs []error
	if c.Sink == nil {
		errs = append(errs, errors.New("sink is missing"))
	}
	if c.State == nil {
		errs = append(errs, errors.New("state is missing"))
	}
	h := &Host{
		node: c.Node, drivers: map[string]Driver{}, sink: c.Sink, state: c.State, log: c.Log,
		interval: c.StatusInterval, meters: newMeters(), ops: make(chan op), stopped: make(chan struct{}),
	}
	for _, d := range c.Drivers {
		for _, p := range d.Protocols() {
			k := strings.ToLower(p)
			if h.drivers[k] != nil {
				errs = append(errs, fmt.Errorf("two drivers for protocol %q", k))
			}
			h.drivers[k] = d
		}
	}
	if h.log == nil {
		h.log = zap.NewNop()
	}
	if h.interval <= 0 {
		h.interval = time.Second
	}
	return h, errors.Join(errs...)
}

// Run operates devices until ctx ends and everything it started has stopped. It
// returns nil then. It may be called once.
func (h *Host) Run(ctx context.Context) error {
	first := false
	h.once.Do(func() { first = true })
	if !first {
		return errors.New("run device host: called twice")
	}
	defer close(h.stopped)
	r := &roster{
		host: h, workers: map[string]*worker{}, devices: map[string]*v1beta1.Device{},
		origins: map[string]origin{}, models: map[string]*v1beta1.DeviceModel{},
	}
	defer r.wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case o := <-h.ops:
			o.done <- o.do(ctx, r)
		}
	}
}

// ApplyDevice makes the host operate a device as it now is. It returns when the device's
// worker has it as what to do next, so that the caller, who reads everything again after
// a restart, may acknowledge it; until Run runs, it blocks. Applying the same again changes nothing. Version is the
// object's resourceVersion: it becomes the version of the desired values that the
// object changes. An object that is older (by generation, then by version) than one
// of its UID that was applied before, be it in an earlier life, is left out; when
// there is no newer one to operate, it is read from but not written to. The device
// must not be changed afterwards.
func (h *Host) ApplyDevice(ctx context.Context, d *v1beta1.Device, version string) error {
	return h.ApplyDeviceFrom(ctx, "", d, version)
}

// ApplyDeviceFrom is ApplyDevice of an object from the store that epoch names. Those
// of different stores are not compared: the one that is applied later is the newer.
func (h *Host) ApplyDeviceFrom(ctx context.Context, epoch string, d *v1beta1.Device, version string) error {
	return h.call(ctx, func(run context.Context, r *roster) error {
		r.applyDevice(run, d, originOf(epoch, d, version))
		return nil
	})
}

// ApplyModel makes the host use a model. Its devices follow before it returns. The
// model must not be changed afterwards.
func (h *Host) ApplyModel(ctx context.Context, m *v1beta1.DeviceModel, version string) error {
	return h.call(ctx, func(_ context.Context, r *roster) error { r.applyModel(m); return nil })
}

// Operates tells whether the host operates a device of that name.
func (h *Host) Operates(ctx context.Context, namespace, name string) (operates bool, err error) {
	ref := Ref{Namespace: namespace, Name: name}
	err = h.call(ctx, func(_ context.Context, r *roster) error {
		operates = r.workers[ref.String()] != nil
		return nil
	})
	return operates, err
}

// DeleteDevice stops operating a device and forgets what was recorded of it; the
// device itself is left as it is. It returns after the worker has stopped, and an error
// when what was recorded could not be forgotten: then it is to be called again. UID may
// be empty; otherwise a device of another UID is kept. A device that is not there is no
// error.
func (h *Host) DeleteDevice(ctx context.Context, namespace, name, uid string) error {
	ref := Ref{Namespace: namespace, Name: name, UID: uid}
	var ending *worker
	err := h.call(ctx, func(_ context.Context, r *roster) error {
		if r.workers[ref.String()] == nil { // deleted while the host was not running
			return forget(ctx, h.state, ref)
		}
		ending = r.deleteDevice(ref)
		return nil
	})
	if err == nil && ending != nil {
		err = ending.wait(ctx)
	}
	if err != nil {
		return fmt.Errorf("delete device %s: %w", ref, err)
	}
	return nil
}

// DeleteModel makes a model unknown. Devices that use it stop and wait for one.
func (h *Host) DeleteModel(ctx context.Context, namespace, name string) error {
	return h.call(ctx, func(_ context.Context, r *roster) error { r.deleteModel(namespace, name); return nil })
}

func (h *Host) call(ctx context.Context, do func(context.Context, *roster) error) error {
	o := op{do: do, done: make(chan error, 1)}
	select {
	case h.ops <- o:
		return <-o.done
	case <-h.stopped:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *Host) driver(protocol string) Driver {
	if d := h.drivers[strings.ToLower(protocol)]; d != nil {
		return d
	}
	return h.drivers[AnyProtocol]
}

// roster is who works on what. Only Run's goroutine touches it.
type roster struct {
	host    *Host
	wg      sync.WaitGroup
	workers map[string]*worker
	devices map[string]*v1beta1.Device
	origins map[string]origin
	models  map[string]*v1beta1.DeviceModel
}

func (r *roster) applyDevice(ctx context.Context, d *v1beta1.Device, o origin) {
	ref := refOf(d)
	k := ref.String()
	w := r.workers[k]
	if w != nil && w.device.UID == ref.UID && o.older(r.origins[k]) {
		r.host.meters.stale.Add(1)
		w.log.Info("older device object left out", zap.String("version", o.Version), zap.Int64("generation", o.Generation))
		return
	}
	if d.Spec.NodeName != r.host.node {
		r.deleteDevice(Ref{Namespace: ref.Namespace, Name: ref.Name})
		return
	}
	var after <-chan struct{}
	if w != nil && w.device.UID != ref.UID { // recreated: the old worker stops before the new one starts
		after = r.deleteDevice(w.device).gone
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

func (r *roster) applyModel(m *v1beta1.DeviceModel) {
	r.models[m.Namespace+"/"+m.Name] = m
	r.reassign(m.Namespace, m.Name)
}

func (r *roster) deleteModel(namespace, name string) {
	delete(r.models, namespace+"/"+name)
	r.reassign(namespace, name)
}

func (r *roster) reassign(namespace, name string) {
	for k, d := range r.devices {
		if d.Namespace == namespace && d.Spec.DeviceModelRef != nil && d.Spec.DeviceModelRef.Name == name {
			r.workers[k].assign(target{device: d, model: r.modelOf(d), origin: r.origins[k]})
		}
	}
}

func (r *roster) modelOf(d *v1beta1.Device) *v1beta1.DeviceModel {
	if d.Spec.DeviceModelRef == nil {
		return nil
	}
	return r.models[d.Namespace+"/"+d.Spec.DeviceModelRef.Name]
}

// deleteDevice ends a worker, which forgets what it recorded. It returns the worker, nil
// when there is none of that name and UID.
func (r *roster) deleteDevice(ref Ref) *worker {
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
