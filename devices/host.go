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

// ErrStopped is returned by calls to a Host whose Run has returned.
var ErrStopped = errors.New("device host stopped")

// Config configures a Host. All fields but the last two are required.
type Config struct {
	// Node is the name of the node whose devices are operated. A device that is bound to
	// another node is treated as deleted.
	Node string
	// Drivers are selected by protocol name.
	Drivers []Driver
	// Sink stores what the devices report.
	Sink Sink
	// State survives restarts.
	State State
	// Log may be nil.
	Log *zap.Logger
	// StatusInterval is the shortest time between two statuses of one device; zero: 1 s. A
	// change after a longer time is reported at once. A device may have a longer interval.
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
	counters *counters

	ops     chan op
	stopped chan struct{}
	once    sync.Once
}

type op struct {
	do   func(context.Context, *registry) error
	done chan error
}

// New returns a Host. It does no I/O and starts nothing. It fails if a required field is
// missing or two drivers have the same protocol.
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
		interval: c.StatusInterval, counters: newCounters(), ops: make(chan op), stopped: make(chan struct{}),
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
	r := &registry{
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

// ApplyDevice creates or updates a device. It returns once the device's worker has it as its
// next target, so that the caller may acknowledge the object if it reads all objects again
// after a restart. It blocks until Run runs. Applying the same object again changes nothing.
// Version is the object's resourceVersion: it becomes the version of the desired values that
// the object changes. An object that is older (by generation, then by version) than one with
// its UID that was applied before, even before a restart, is ignored; if there is no newer
// one to operate, the device is read and not written. The object must not be modified
// afterwards.
func (h *Host) ApplyDevice(ctx context.Context, d *v1beta1.Device, version string) error {
	return h.ApplyDeviceFrom(ctx, "", d, version)
}

// ApplyDeviceFrom is ApplyDevice for an object from the store that epoch identifies. Objects
// of different stores are not compared: the one applied later is the newer one.
func (h *Host) ApplyDeviceFrom(ctx context.Context, epoch string, d *v1beta1.Device, version string) error {
	return h.call(ctx, func(run context.Context, r *registry) error {
		r.applyDevice(run, d, originOf(epoch, d, version))
		return nil
	})
}

// ApplyModel creates or updates a model. Before it returns, its devices have it as part of
// their next target. The model must not be modified afterwards.
func (h *Host) ApplyModel(ctx context.Context, m *v1beta1.DeviceModel, version string) error {
	return h.call(ctx, func(_ context.Context, r *registry) error { r.applyModel(m); return nil })
}

// Operates reports whether the host operates a device of that name.
func (h *Host) Operates(ctx context.Context, namespace, name string) (operates bool, err error) {
	ref := Ref{Namespace: namespace, Name: name}
	err = h.call(ctx, func(_ context.Context, r *registry) error {
		operates = r.workers[ref.String()] != nil
		return nil
	})
	return operates, err
}

// DeleteDevice stops operating a device and deletes its saved state; the device itself is not
// changed. It returns after the worker has stopped, with an error if the state could not be
// deleted: the caller should call it again. UID may be empty; otherwise a device with another
// UID is kept. A missing device is no error.
func (h *Host) DeleteDevice(ctx context.Context, namespace, name, uid string) error {
	ref := Ref{Namespace: namespace, Name: name, UID: uid}
	var ending *worker
	err := h.call(ctx, func(_ context.Context, r *registry) error {
		if r.workers[ref.String()] == nil { // deleted while the host was not running
			return deleteState(ctx, h.state, ref)
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

// DeleteModel deletes a model. Devices that use it stop and wait for one.
func (h *Host) DeleteModel(ctx context.Context, namespace, name string) error {
	return h.call(ctx, func(_ context.Context, r *registry) error { r.deleteModel(namespace, name); return nil })
}

func (h *Host) call(ctx context.Context, do func(context.Context, *registry) error) error {
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
	ref := refOf(d)
	k := ref.String()
	w := r.workers[k]
	if w != nil && w.device.UID == ref.UID && o.older(r.origins[k]) {
		r.host.counters.stale.Add(1)
		w.log.Info("older Device object ignored", zap.String("version", o.Version), zap.Int64("generation", o.Generation))
		return
	}
	if d.Spec.NodeName != r.host.node {
		r.deleteDevice(Ref{Namespace: ref.Namespace, Name: ref.Name})
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
func (r *registry) deleteDevice(ref Ref) *worker {
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
