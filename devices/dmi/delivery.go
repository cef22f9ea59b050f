package dmi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/dmi/convert"
	pb "github.com/petiole-io/petiole/devices/dmi/v1beta1"
	"github.com/petiole-io/petiole/devices/internal/backoff"
)

// The reasons why a device is unreachable.
const (
	ReasonNoMapper      = "NoMapper"
	ReasonMapperAway    = "MapperAway"
	ReasonMapperRefuses = "MapperRefuses"
)

// binding is the mapper, and the epoch of it, that has a device. It outlives the sessions of
// the device.
type binding struct {
	// lock is held while the device is delivered to the mapper or removed from it.
	lock chan struct{}

	// Guarded by the server's lock.
	mapper *mapper
	epoch  int
	model  string    // the digest of the model that the mapper has; empty: unknown
	since  time.Time // when the mapper got its current version of the device
	remote *Remote   // whose mappers report the device, if any
}

func newBinding() *binding { return &binding{lock: make(chan struct{}, 1)} }

// firstEpoch is the epoch that begins with the first response of a mapper.
const firstEpoch = 1

var (
	// errAway reports that there is no mapper to deliver to. The delivery is retried when that
	// changes.
	errAway = errors.New("no mapper responds")
	// errBusy reports that another delivery held the lock until ctx ended.
	errBusy = errors.New("another delivery of the device is running")
	// errReplaced reports that another session operates the device now.
	errReplaced = errors.New("another session has replaced this one")
)

// delivery keeps the mapper's copy of one device up to date.
type delivery struct {
	server   *Server
	device   devices.Ref
	protocol string
	points   []devices.Point
	log      *zap.Logger
	changed  chan struct{}   // the device may have to be delivered
	health   chan struct{}   // the result of unreachableReason may have changed
	binding  *binding        // set when the session is the current one of its device
	unusable map[string]bool // properties that cannot be converted for a mapper

	mu      sync.Mutex
	def     devices.Definition
	refusal refusal
}

// refusal is why a device could not be delivered although its mapper responds; zero: it was.
type refusal struct{ reason, message string }

func newDelivery(s *Server, def devices.Definition, unusable map[string]bool) *delivery {
	return &delivery{
		server: s, device: def.Device, protocol: def.Protocol, points: def.Points, unusable: unusable, def: def,
		log:     s.log.With(zap.String("device", def.Device.String()), zap.String("protocol", def.Protocol)),
		changed: make(chan struct{}, 1), health: make(chan struct{}, 1),
	}
}

// definition returns the newest definition.
func (x *delivery) definition() devices.Definition {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.def
}

// redefine replaces the objects of the definition.
func (x *delivery) redefine(def devices.Definition) {
	x.mu.Lock()
	x.def = def
	x.mu.Unlock()
	signal(x.changed)
}

// wake makes the session check its mapper again.
func (x *delivery) wake() {
	signal(x.changed)
	signal(x.health)
}

// unreachableReason returns why the device cannot be operated now. The reason is empty if it
// can, or if the mapper may still be starting.
func (x *delivery) unreachableReason() (reason, message string) {
	m := x.server.mapper(x.protocol)
	if m == nil {
		if remoteOf(x) != nil {
			return "", ""
		}
		return ReasonNoMapper, fmt.Sprintf("no mapper for protocol %q has registered", x.protocol)
	}
	if p := m.currentPresence(); p.phase == away {
		return ReasonMapperAway, fmt.Sprintf("mapper %s does not respond: %s", m.info.Name, p.message)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.refusal.reason, x.refusal.message
}

// run delivers the device to its mapper after every change, and retries with a
// back-off, until ctx ends.
func (x *delivery) run(ctx context.Context) {
	x.awaitValues(ctx)
	retry := backoff.Backoff{First: x.server.timing.retry, Max: x.server.timing.retryMax}
	for ctx.Err() == nil {
		err := x.deliver(ctx, nil)
		if isRefusal(err) && x.withdraw() {
			err = x.deliver(ctx, nil)
		}
		if ctx.Err() != nil {
			return
		}
		x.setRefusal(err)
		var again <-chan time.Time // nil: only a change leads to another delivery
		if err == nil || errors.Is(err, errAway) || errors.Is(err, errReplaced) {
			retry.Reset()
		} else {
			again = time.After(retry.Next())
		}
		if again == nil && waitsForTime(x) {
			again = time.After(x.server.timing.clock)
		}
		select {
		case <-ctx.Done():
		case <-x.changed:
		case <-again:
		}
	}
}

// withdraw drops the values that the mapper never confirmed, since one of them may be why it
// refuses the device. It reports whether there were any. The device host writes them again,
// one by one, once the mapper has the device.
func (x *delivery) withdraw() bool {
	withdrawn := false
	x.server.store.update(x.device.String(), func(r *record) {
		for p, t := range r.Sent {
			if !t.Confirmed {
				delete(r.Sent, p)
				withdrawn = true
			}
		}
	})
	return withdrawn
}

// awaitValues waits a short time for the desired values of a new device: a mapper that gets
// the device without them may log an error for every writable property.
func (x *delivery) awaitValues(ctx context.Context) {
	def := x.definition()
	r, _ := x.server.store.device(x.device.String())
	missing := false
	for _, p := range x.points {
		if _, ok := r.Sent[p.Name]; !ok && p.Writable && desired(def, p.Name) != nil {
			missing = true
		}
	}
	if !missing {
		return
	}
	timer := time.NewTimer(x.server.timing.settle)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-x.changed:
	case <-timer.C:
	}
}

// setRefusal records why the device could not be delivered.
func (x *delivery) setRefusal(err error) {
	now := refusal{}
	switch {
	case errors.Is(err, errStore):
		now = refusal{devices.ReasonStateStore, err.Error()}
	case isRefusal(err):
		now = refusal{ReasonMapperRefuses, status.Convert(err).Message()}
	}
	x.mu.Lock()
	changed := now != x.refusal
	x.refusal = now
	x.mu.Unlock()
	if !changed {
		return
	}
	if now.reason != "" {
		x.log.Warn("deliver device to mapper", zap.Error(err))
	}
	signal(x.health)
}

// isRefusal reports whether a mapper responded with an error to a delivery.
func isRefusal(err error) bool {
	return err != nil && !unreachable(err) && !notSent(err) && !errors.Is(err, errStore)
}

// notSent reports whether the delivery did not reach any mapper and should be retried later.
func notSent(err error) bool {
	return errors.Is(err, errAway) || errors.Is(err, errBusy) || errors.Is(err, errReplaced)
}

// bundle returns the bundle for the mapper according to the record, with values that are
// sent only once.
func (x *delivery) bundle(r record, once map[string]convert.SentValue) (convert.Bundle, error) {
	def := x.definition()
	values := map[string]convert.SentValue{}
	for p, t := range r.Sent {
		// A value that is no longer desired, or that must not be written late, is not sent.
		if want := desired(def, p); want != nil && !expired(x.server, want) {
			values[p] = t
		}
	}
	lasting, err := convert.Device(def, x.unusable, values)
	if err != nil || len(once) == 0 {
		return lasting, err
	}
	maps.Copy(values, once)
	b, err := convert.Device(def, x.unusable, values)
	b.Digest = lasting.Digest // so that the values are neither removed nor repeated by a later delivery
	return b, err
}

// deliver brings the device at the mapper up to date, and sends it the values that are sent
// only once. It returns nil after the mapper has accepted the device.
func (x *delivery) deliver(ctx context.Context, once map[string]convert.SentValue) error {
	end, err := x.lock(ctx)
	if err != nil {
		return err
	}
	defer end()
	return x.deliverLocked(ctx, once)
}

// lock locks deliveries of the device until end is called.
func (x *delivery) lock(ctx context.Context) (end func(), err error) {
	p := x.binding
	select {
	case p.lock <- struct{}{}:
		return func() { <-p.lock }, nil
	case <-ctx.Done():
		return nil, errBusy
	}
}

// deliverLocked is deliver for a caller that holds the lock.
func (x *delivery) deliverLocked(ctx context.Context, once map[string]convert.SentValue) error {
	if !x.server.current(x) {
		return errReplaced
	}
	m := x.server.mapper(x.protocol)
	if m == nil {
		return errAway
	}
	now := m.currentPresence()
	if now.phase != present {
		return errAway
	}
	r, _ := x.server.store.device(x.device.String())
	lasting, err := x.bundle(r, nil)
	if err != nil {
		return err
	}
	delivered, err := x.register(ctx, m, now.epoch, lasting)
	if err != nil || (delivered || r.Has == lasting.Digest) && len(once) == 0 {
		return err
	}
	want, err := x.bundle(r, once)
	if err != nil {
		return err
	}
	return x.update(ctx, m, want)
}

// register registers model and device at a mapper that may not have them. Delivered reports
// whether the mapper has the wanted version now, because it had none before.
func (x *delivery) register(ctx context.Context, m *mapper, epoch int, want convert.Bundle) (delivered bool, err error) {
	at, known := x.bound()
	if known && at.mapper == m && at.epoch == epoch {
		return false, nil
	}
	model, err := convert.Digest(want.Model)
	if err != nil {
		return false, err
	}
	err = createModel(ctx, m, want.Model)
	if status.Code(err) == codes.AlreadyExists {
		model, err = "", nil // the mapper may have another version of the model
	}
	if err != nil {
		return false, fmt.Errorf("create model %s: %w", want.Model.GetName(), err)
	}
	err = m.call(ctx, func(ctx context.Context, c pb.DeviceMapperServiceClient) error {
		_, err := c.RegisterDevice(ctx, &pb.RegisterDeviceRequest{Device: want.Device})
		return err
	})
	exists := status.Code(err) == codes.AlreadyExists
	if err != nil && !exists {
		return false, fmt.Errorf("register device: %w", err)
	}
	x.updateBinding(m, func(p *binding, r *record) {
		p.mapper, p.epoch, p.model = m, epoch, model
		r.Model = want.Model.GetName()
		if r.Has == hasNothing && !exists {
			p.since, r.Has = time.Now(), want.Digest
			delivered = true
		}
	})
	return delivered, nil
}

// update updates the device, and if necessary the model, at a mapper that has them.
func (x *delivery) update(ctx context.Context, m *mapper, want convert.Bundle) error {
	model, err := convert.Digest(want.Model)
	if err != nil {
		return err
	}
	key := x.device.String()
	r, _ := x.server.store.device(key)
	if r.Has != hasUnknown { // after a crash the record must not claim what the mapper no longer has
		if err := x.server.store.save(key, func(r *record) { r.Has = hasUnknown }); err != nil {
			return err
		}
	}
	if at, _ := x.bound(); at.model != model {
		if err := updateModel(ctx, m, r.Model, want.Model); err != nil {
			x.unbind(m)
			return fmt.Errorf("update model %s: %w", want.Model.GetName(), err)
		}
	}
	err = m.call(ctx, func(ctx context.Context, c pb.DeviceMapperServiceClient) error {
		_, err := c.UpdateDevice(ctx, &pb.UpdateDeviceRequest{Device: want.Device})
		return err
	})
	if err != nil {
		x.unbind(m)
		return fmt.Errorf("update device: %w", err)
	}
	x.updateBinding(m, func(p *binding, r *record) {
		p.model, p.since = model, time.Now()
		r.Has, r.Model = want.Digest, want.Model.GetName()
	})
	if r.Model != want.Model.GetName() {
		x.server.removeUnusedModel(ctx, m, x.device.Namespace, r.Model)
	}
	return nil
}

func createModel(ctx context.Context, m *mapper, model *pb.DeviceModel) error {
	return m.call(ctx, func(ctx context.Context, c pb.DeviceMapperServiceClient) error {
		_, err := c.CreateDeviceModel(ctx, &pb.CreateDeviceModelRequest{Model: model})
		return err
	})
}

// updateModel brings a model at the mapper up to date. If the device had another model before,
// the mapper may not have this one.
func updateModel(ctx context.Context, m *mapper, before string, model *pb.DeviceModel) error {
	if before != model.GetName() {
		if err := createModel(ctx, m, model); status.Code(err) != codes.AlreadyExists {
			return err
		}
	}
	return m.call(ctx, func(ctx context.Context, c pb.DeviceMapperServiceClient) error {
		_, err := c.UpdateDeviceModel(ctx, &pb.UpdateDeviceModelRequest{Model: model})
		return err
	})
}

// bound returns a copy of the binding. Known is false if no mapper has the device.
func (x *delivery) bound() (at binding, known bool) {
	x.server.mu.Lock()
	defer x.server.mu.Unlock()
	return binding{mapper: x.binding.mapper, epoch: x.binding.epoch, model: x.binding.model}, x.binding.mapper != nil
}

// heldFor returns how long the mapper has had the current version of the device.
func (x *delivery) heldFor() time.Duration {
	x.server.mu.Lock()
	defer x.server.mu.Unlock()
	return time.Since(x.binding.since)
}

// updateBinding records what a mapper has, unless another one has replaced it.
func (x *delivery) updateBinding(m *mapper, change func(*binding, *record)) {
	x.server.mu.Lock()
	defer x.server.mu.Unlock()
	if x.server.mappers[strings.ToLower(x.protocol)] != m {
		return
	}
	x.server.store.update(x.device.String(), func(r *record) { change(x.binding, r) })
}

// unbind makes the next delivery register the device again: the mapper may have lost it.
func (x *delivery) unbind(m *mapper) {
	x.updateBinding(m, func(p *binding, _ *record) { p.mapper = nil })
}

// reset prepares the session for a mapper that has just started, without any devices. A value
// that the earlier mapper did not confirm is dropped if another is desired by now. The
// caller holds the server's lock.
func (x *delivery) reset() {
	x.mu.Lock()
	def := x.def
	x.refusal = refusal{}
	x.mu.Unlock()
	x.binding.mapper = nil
	x.server.store.update(x.device.String(), func(r *record) {
		r.Has = hasNothing
		for p, t := range r.Sent {
			if d := desired(def, p); !t.Confirmed && (d == nil || d.Value != t.Value) {
				delete(r.Sent, p)
			}
		}
	})
}

// bindRegistered records that a mapper got the device in the response to its registration.
// The caller holds the server's lock.
func (x *delivery) bindRegistered(m *mapper, b convert.Bundle) {
	model, err := convert.Digest(b.Model)
	if err != nil {
		return // the device is registered once more
	}
	x.binding.mapper, x.binding.epoch, x.binding.model, x.binding.since = m, firstEpoch, model, time.Now()
	x.server.store.update(x.device.String(), func(r *record) { r.Has, r.Model = b.Digest, b.Model.GetName() })
}

// expired reports whether a desired value must no longer be written, or not yet because the time is
// unknown.
func expired(s *Server, want *v1beta1.TwinProperty) bool {
	t := devices.ExpiresAt(want.Metadata)
	if t.IsZero() {
		return false
	}
	left, _ := s.cfg.Until(t)
	return left <= 0
}

// waitsForTime reports whether a value of the device is not sent only because the time is unknown.
func waitsForTime(x *delivery) bool {
	def := x.definition()
	r, _ := x.server.store.device(x.device.String())
	for p := range r.Sent {
		want := desired(def, p)
		if want == nil || !expired(x.server, want) {
			continue
		}
		if _, known := x.server.cfg.Until(devices.ExpiresAt(want.Metadata)); !known {
			return true
		}
	}
	return false
}

// desired returns the desired value of a property, or nil.
func desired(def devices.Definition, property string) *v1beta1.TwinProperty {
	for i := range def.Object.Spec.Properties {
		if p := &def.Object.Spec.Properties[i]; p.Name == property && p.Desired != nil && p.Desired.Value != "" {
			return p.Desired
		}
	}
	return nil
}
