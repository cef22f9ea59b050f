package host

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/internal/points"
	"github.com/petiole-io/petiole/devices/internal/report"
	"github.com/petiole-io/petiole/devices/internal/stats"
)

// ErrStopped is returned by calls to a Host whose Run has returned.
var ErrStopped = errors.New("device host stopped")

// ErrUnknownDevice reports that the host operates no such device.
var ErrUnknownDevice = errors.New("unknown device")

// Clock numbers the epochs of records, and marks those whose times are not by a clock that is right.
type Clock = report.Clock

// Config configures a Host. All fields but Log, StatusInterval and Gather are required.
type Config struct {
	// Node is the name of the node whose devices are operated. A device that is bound to
	// another node is treated as deleted.
	Node string
	// Drivers are selected by protocol name.
	Drivers []devices.Driver
	// Sink stores what the devices report.
	Sink devices.Sink
	// State survives restarts.
	State devices.State
	Clock Clock
	// Log may be nil.
	Log *zap.Logger
	// StatusInterval is the shortest time between two statuses of one device; zero: 1 s. A
	// change after a longer time is reported at once. A device may have a longer interval.
	StatusInterval time.Duration
	// Gather is the interval in which the samples of a device become one record, and the least time
	// between two statuses of a device; all devices store at the same times. What is gathered when
	// the process is killed is lost. 0: samples are stored at once.
	Gather time.Duration
}

// Host operates the devices of one node. Its methods are safe for concurrent use.
type Host struct {
	node     string
	drivers  map[string]devices.Driver
	sink     devices.Sink
	state    devices.State
	clock    Clock
	log      *zap.Logger
	interval time.Duration
	gather   time.Duration
	counters *stats.Counters
	points   points.Sets
	room     report.Room

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
	if c.Clock == nil {
		errs = append(errs, errors.New("clock is missing"))
	}
	h := &Host{
		node: c.Node, drivers: map[string]devices.Driver{}, sink: c.Sink, state: c.State, clock: c.Clock, log: c.Log,
		interval: c.StatusInterval, gather: c.Gather, counters: stats.New(), ops: make(chan op), stopped: make(chan struct{}),
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
	ref := devices.Ref{Namespace: namespace, Name: name}
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
	ref := devices.Ref{Namespace: namespace, Name: name, UID: uid}
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

// Command carries out a command and returns its result. It blocks until then, which is soon
// after the deadline at the latest. The end of ctx does not end the command: a later call
// with the same id returns how it ended. Errors are ErrUnknownDevice, ErrStopped, or that of
// ctx; everything else is a result.
//
// The id is recorded in State before anything is written. A repeated id gets the recorded
// result, also after a restart; if the host was killed while it executed the command, that
// is failed, reason Unknown. State has at least the newest 240 ids of a device, and all
// whose deadlines have not passed. A command that was refused or expired before anything
// was written is not recorded: a repetition is decided again.
func (h *Host) Command(ctx context.Context, c devices.Command) (devices.CommandResult, error) {
	r := &request{command: c, deadline: c.Deadline, reply: make(chan devices.CommandResult, 1)}
	if c.Deadline.IsZero() {
		r.deadline = time.Now().Add(defaultDeadline)
	}
	var w *worker
	err := h.call(ctx, func(_ context.Context, ro *registry) error {
		w = ro.workers[c.Device.String()]
		return nil
	})
	if err != nil {
		return devices.CommandResult{}, fmt.Errorf("command device %s: %w", c.Device, err)
	}
	if w == nil {
		return devices.CommandResult{}, fmt.Errorf("command device %s: %w", c.Device, ErrUnknownDevice)
	}
	select {
	case w.requests <- r:
	case <-w.stopped:
	case <-ctx.Done():
		return devices.CommandResult{}, fmt.Errorf("command device %s: %w", c.Device, ctx.Err())
	}
	select {
	case result := <-r.reply:
		return result, nil
	case <-ctx.Done():
		return devices.CommandResult{}, fmt.Errorf("command device %s: %w", c.Device, ctx.Err())
	case <-w.stopped:
	}
	select {
	case result := <-r.reply:
		return result, nil
	default:
		return devices.CommandResult{}, fmt.Errorf("command device %s: %w", c.Device, ErrStopped)
	}
}

// DeleteModel deletes a model. Devices that use it stop and wait for one.
func (h *Host) DeleteModel(ctx context.Context, namespace, name string) error {
	return h.call(ctx, func(_ context.Context, r *registry) error { r.deleteModel(namespace, name); return nil })
}

// Stats returns the counters. It does not block.
func (h *Host) Stats() devices.Stats { return h.counters.Snapshot() }

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

func (h *Host) driver(protocol string) devices.Driver {
	if d := h.drivers[strings.ToLower(protocol)]; d != nil {
		return d
	}
	return h.drivers[devices.AnyProtocol]
}
