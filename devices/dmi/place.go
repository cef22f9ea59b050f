package dmi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	pb "github.com/petiole-io/petiole/devices/dmi/v1beta1"
)

// place is where a device is known: at which mapper, since which of its epochs. It
// outlives the sessions of the device.
type place struct {
	// turn is held by who brings the device to the mapper or takes it away.
	turn chan struct{}

	// Guarded by the server's lock.
	mapper *mapper
	epoch  int
	model  string    // the digest of the model that the mapper has; empty: unknown
	since  time.Time // when the mapper got the device as it has it
}

func newPlace() *place { return &place{turn: make(chan struct{}, 1)} }

// firstEpoch is the epoch in which a mapper answers for the first time.
const firstEpoch = 1

var (
	// errAway reports that there is nobody to bring a device to. It is tried again when
	// that changes.
	errAway = errors.New("no mapper answers")
	// errBusy reports that another one was at it until it was too late.
	errBusy = errors.New("the device is being brought to its mapper")
	// errReplaced reports that another session is the one of the device now.
	errReplaced = errors.New("another session has taken over")
)

// bringAlways brings the device to its mapper whenever something has changed, and again
// after a while when that fails, until ctx ends.
func (x *session) bringAlways(ctx context.Context) {
	x.awaitValues(ctx)
	wait := x.server.timing.retry
	for ctx.Err() == nil {
		err := x.bring(ctx, nil)
		if refuses(err) && x.withdraw() {
			err = x.bring(ctx, nil)
		}
		if ctx.Err() != nil {
			return
		}
		x.refused(err)
		timer := time.NewTimer(wait)
		again := timer.C
		switch {
		case err == nil || errors.Is(err, errAway) || errors.Is(err, errReplaced):
			again, wait = nil, x.server.timing.retry
		default:
			wait = min(2*wait, x.server.timing.retryMax)
		}
		select {
		case <-ctx.Done():
		case <-x.news:
		case <-again:
		}
		timer.Stop()
	}
}

// withdraw takes back the values that the mapper never confirmed, one of which may be why
// it refuses the device, and tells whether there were any. They are written again, each
// with a verdict of its own, once the device is there.
func (x *session) withdraw() bool {
	withdrawn := false
	x.server.store.note(x.device.String(), func(r *record) {
		for p, t := range r.Told {
			if !t.Confirmed {
				delete(r.Told, p)
				withdrawn = true
			}
		}
	})
	return withdrawn
}

// awaitValues waits a moment for the values that are desired of a new device: a mapper
// that gets it without them may complain of every writable property.
func (x *session) awaitValues(ctx context.Context) {
	x.mu.Lock()
	def := x.def
	x.mu.Unlock()
	r, _ := x.server.store.device(x.device.String())
	missing := false
	for _, p := range x.points {
		if _, ok := r.Told[p.Name]; !ok && p.Writable && desired(def, p.Name) != nil {
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
	case <-x.news:
	case <-timer.C:
	}
}

// refused remembers why the device does not get to its mapper.
func (x *session) refused(err error) {
	now := refusal{}
	switch {
	case errors.Is(err, errStore):
		now = refusal{devices.ReasonStateStore, err.Error()}
	case refuses(err):
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
		x.log.Warn("device does not get to its mapper", zap.Error(err))
	}
	poke(x.health)
}

// refuses tells that a mapper answered that it does not take a device.
func refuses(err error) bool {
	return err != nil && !unreachable(err) && !unsent(err) && !errors.Is(err, errStore)
}

// unsent tells that a mapper was not even asked to take a device, and may be later.
func unsent(err error) bool {
	return errors.Is(err, errAway) || errors.Is(err, errBusy) || errors.Is(err, errReplaced)
}

// bundle is what the mapper shall have of the device by its record, with values that
// are told only once.
func (x *session) bundle(r record, once map[string]told) (bundle, error) {
	x.mu.Lock()
	def := x.def
	x.mu.Unlock()
	values := map[string]told{}
	for p, t := range r.Told {
		if desired(def, p) != nil { // what is desired no more is left alone
			values[p] = t
		}
	}
	lasting, err := convert(def, x.unusable, values)
	if err != nil || len(once) == 0 {
		return lasting, err
	}
	maps.Copy(values, once)
	b, err := convert(def, x.unusable, values)
	b.digest = lasting.digest // so that nobody takes the values away again, or repeats them
	return b, err
}

// bring makes the mapper have what it shall have of the device, and tells it the values
// that are told only once. It returns nil when the mapper has said so.
func (x *session) bring(ctx context.Context, once map[string]told) error {
	end, err := x.turn(ctx)
	if err != nil {
		return err
	}
	defer end()
	return x.bringInTurn(ctx, once)
}

// turn waits until nobody else brings the device anywhere, and keeps it so until end is
// called.
func (x *session) turn(ctx context.Context) (end func(), err error) {
	p := x.place
	select {
	case p.turn <- struct{}{}:
		return func() { <-p.turn }, nil
	case <-ctx.Done():
		return nil, errBusy
	}
}

// bringInTurn is bring for who has the turn.
func (x *session) bringInTurn(ctx context.Context, once map[string]told) error {
	if !x.server.current(x) {
		return errReplaced
	}
	m := x.server.mapper(x.protocol)
	if m == nil {
		return errAway
	}
	now := m.standing()
	if now.phase != present {
		return errAway
	}
	r, _ := x.server.store.device(x.device.String())
	lasting, err := x.bundle(r, nil)
	if err != nil {
		return err
	}
	model, err := digest(lasting.model)
	if err != nil {
		return err
	}
	delivered, err := x.introduce(ctx, m, now.epoch, lasting, model)
	if err != nil || (delivered || r.Has == lasting.digest) && len(once) == 0 {
		return err
	}
	want, err := x.bundle(r, once)
	if err != nil {
		return err
	}
	return x.update(ctx, m, want, model)
}

// introduce makes a mapper know the device that may have forgotten it, and tells whether
// the mapper has it as it shall be now, for having had nothing of it.
func (x *session) introduce(ctx context.Context, m *mapper, epoch int, want bundle, model string) (delivered bool, err error) {
	at, known := x.where()
	if known && at.mapper == m && at.epoch == epoch {
		return false, nil
	}
	err = m.call(ctx, func(ctx context.Context, c pb.DeviceMapperServiceClient) error {
		_, err := c.CreateDeviceModel(ctx, &pb.CreateDeviceModelRequest{Model: want.model})
		return err
	})
	if status.Code(err) == codes.AlreadyExists {
		model, err = "", nil // which model it is, is not known
	}
	if err != nil {
		return false, fmt.Errorf("create model %s: %w", want.model.GetName(), err)
	}
	err = m.call(ctx, func(ctx context.Context, c pb.DeviceMapperServiceClient) error {
		_, err := c.RegisterDevice(ctx, &pb.RegisterDeviceRequest{Device: want.device})
		return err
	})
	exists := status.Code(err) == codes.AlreadyExists
	if err != nil && !exists {
		return false, fmt.Errorf("register device: %w", err)
	}
	x.settle(m, func(p *place, r *record) {
		p.mapper, p.epoch, p.model = m, epoch, model
		r.Model = want.model.GetName()
		if r.Has == hasNothing && !exists {
			p.since, r.Has = time.Now(), want.digest
			delivered = true
		}
	})
	return delivered, nil
}

// update makes a mapper that knows the device have it as it is now.
func (x *session) update(ctx context.Context, m *mapper, want bundle, model string) error {
	key := x.device.String()
	if r, _ := x.server.store.device(key); r.Has != hasUnknown { // a crash must not leave a record of what the mapper no longer has
		if err := x.server.store.save(key, func(r *record) { r.Has = hasUnknown }); err != nil {
			return err
		}
	}
	if at, _ := x.where(); at.model != model {
		err := m.call(ctx, func(ctx context.Context, c pb.DeviceMapperServiceClient) error {
			_, err := c.UpdateDeviceModel(ctx, &pb.UpdateDeviceModelRequest{Model: want.model})
			return err
		})
		if err != nil {
			x.forgotten(m)
			return fmt.Errorf("update model %s: %w", want.model.GetName(), err)
		}
	}
	err := m.call(ctx, func(ctx context.Context, c pb.DeviceMapperServiceClient) error {
		_, err := c.UpdateDevice(ctx, &pb.UpdateDeviceRequest{Device: want.device})
		return err
	})
	if err != nil {
		x.forgotten(m)
		return fmt.Errorf("update device: %w", err)
	}
	x.settle(m, func(p *place, r *record) {
		p.model, p.since = model, time.Now()
		r.Has, r.Model = want.digest, want.model.GetName()
	})
	return nil
}

// where is what is known of the place; known is false when the device is nowhere yet.
func (x *session) where() (at place, known bool) {
	x.server.mu.Lock()
	defer x.server.mu.Unlock()
	return place{mapper: x.place.mapper, epoch: x.place.epoch, model: x.place.model}, x.place.mapper != nil
}

// heldFor is how long the mapper has had the device as it has it.
func (x *session) heldFor() time.Duration {
	x.server.mu.Lock()
	defer x.server.mu.Unlock()
	return time.Since(x.place.since)
}

// settle records what a mapper has, unless another one has taken its place.
func (x *session) settle(m *mapper, change func(*place, *record)) {
	x.server.mu.Lock()
	defer x.server.mu.Unlock()
	if x.server.mappers[strings.ToLower(x.protocol)] != m {
		return
	}
	x.server.store.note(x.device.String(), func(r *record) { change(x.place, r) })
}

// forgotten has the device introduced again: the mapper may not know it any more.
func (x *session) forgotten(m *mapper) {
	x.settle(m, func(p *place, _ *record) { p.mapper = nil })
}

// renew takes over that a mapper has just started, which knows nothing. A value that the
// earlier one did not confirm is dropped if another is desired meanwhile. The server's
// lock is held.
func (x *session) renew() {
	x.mu.Lock()
	def := x.def
	x.refusal = refusal{}
	x.mu.Unlock()
	x.place.mapper = nil
	x.server.store.note(x.device.String(), func(r *record) {
		r.Has = hasNothing
		for p, t := range r.Told {
			if d := desired(def, p); !t.Confirmed && (d == nil || d.Value != t.Value) {
				delete(r.Told, p)
			}
		}
	})
}

// answered takes over that a mapper got the device as the answer to its registration.
// The server's lock is held.
func (x *session) answered(m *mapper, b bundle) {
	model, err := digest(b.model)
	if err != nil {
		return // the device is introduced once more
	}
	x.place.mapper, x.place.epoch, x.place.model, x.place.since = m, firstEpoch, model, time.Now()
	x.server.store.note(x.device.String(), func(r *record) { r.Has, r.Model = b.digest, b.model.GetName() })
}

// desired is what is desired of a property, nil when nothing is.
func desired(def devices.Definition, property string) *v1beta1.TwinProperty {
	for i := range def.Object.Spec.Properties {
		if p := &def.Object.Spec.Properties[i]; p.Name == property && p.Desired != nil && p.Desired.Value != "" {
			return p.Desired
		}
	}
	return nil
}
