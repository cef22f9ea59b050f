package dmi

import (
	"context"
	"maps"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	pb "github.com/petiole-io/petiole/devices/dmi/v1beta1"
)

// removalKey identifies a device to remove from a mapper.
type removalKey struct {
	protocol string // in lower case
	key      string // namespace/name
}

func removalKeyOf(protocol, key string) removalKey { return removalKey{strings.ToLower(protocol), key} }

// removal is a device to remove from its mapper.
type removal struct {
	device devices.Ref
	model  string
	due    time.Time
	wait   time.Duration // until the next attempt after one that failed
}

func refOf(key string) devices.Ref {
	namespace, name, _ := strings.Cut(key, "/")
	return devices.Ref{Namespace: namespace, Name: name}
}

// scheduleRemoval schedules the removal of a device from its mapper. The caller holds the
// server's lock.
func (s *Server) scheduleRemoval(device devices.Ref, r record, due time.Time) {
	s.removals[removalKeyOf(r.Protocol, device.String())] = removal{device: device, model: r.Model, due: due, wait: s.timing.retry}
	s.wakeRemovals()
}

// remover removes devices from their mappers.
type remover struct{ server *Server }

// run removes devices from their mappers until ctx ends. Sessions end when the leaf
// stops, too, and then devices must stay: that is why removals wait for timing.linger.
func (r *remover) run(ctx context.Context) {
	s := r.server
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.removalsWake:
		case <-timer.C:
		}
		next := s.timing.retryMax
		for d, l := range r.pending() {
			if wait := time.Until(l.due); wait > 0 {
				next = min(next, wait)
				continue
			}
			if again := r.remove(ctx, d, l); again > 0 {
				next = min(next, again)
			}
			if ctx.Err() != nil {
				return
			}
		}
		timer.Reset(next)
	}
}

func (r *remover) pending() map[removalKey]removal {
	r.server.mu.Lock()
	defer r.server.mu.Unlock()
	return maps.Clone(r.server.removals)
}

// remove removes a device from its mapper. It returns the time until the next attempt; zero:
// it is done, or waits for a mapper.
func (r *remover) remove(ctx context.Context, d removalKey, l removal) time.Duration {
	s := r.server
	p := s.bindingOf(d.key)
	select {
	case p.lock <- struct{}{}:
		defer func() { <-p.lock }()
	case <-ctx.Done():
		return 0
	}
	s.mu.Lock()
	_, still := s.removals[d]
	m := s.mappers[d.protocol]
	s.mu.Unlock()
	if !still || m == nil || m.currentPresence().phase != present {
		return 0
	}
	err := m.call(ctx, func(ctx context.Context, c pb.DeviceMapperServiceClient) error {
		_, err := c.RemoveDevice(ctx, &pb.RemoveDeviceRequest{DeviceName: l.device.Name, DeviceNamespace: l.device.Namespace})
		return err
	})
	log := s.log.With(zap.String("device", l.device.String()), zap.String("mapper", m.info.Name))
	if unreachable(err) {
		return r.postpone(d, l)
	}
	if err != nil { // most likely the mapper does not have the device
		log.Warn("mapper returned an error for the removal of a device", zap.Error(err))
	}
	r.removed(ctx, d, l, m, p, log)
	return 0
}

// postpone schedules another attempt at a removal.
func (r *remover) postpone(d removalKey, l removal) time.Duration {
	s := r.server
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := l.wait
	l.due, l.wait = time.Now().Add(wait), min(2*wait, s.timing.retryMax)
	if _, still := s.removals[d]; still {
		s.removals[d] = l
	}
	return wait
}

// removed deletes the record of a device that was removed from its mapper. If the device has
// a session again, it is delivered to the mapper again.
func (r *remover) removed(ctx context.Context, d removalKey, l removal, m *mapper, p *binding, log *zap.Logger) {
	s := r.server
	s.mu.Lock()
	delete(s.removals, d)
	x := s.sessions[d.key]
	back := x != nil && x.delivery.binding == p
	if back {
		p.mapper = nil
		s.store.update(d.key, func(r *record) { r.Has = hasNothing })
	} else if s.bindings[d.key] == p {
		delete(s.bindings, d.key)
	}
	s.mu.Unlock()
	if back {
		x.delivery.wake()
		return
	}
	if x == nil {
		s.store.drop(d.key)
		if err := s.store.flush(); err != nil {
			log.Warn("delete record of removed device", zap.Error(err))
		}
	}
	log.Info("device removed from mapper")
	s.removeUnusedModel(ctx, m, l.device.Namespace, l.model)
}

// removeUnusedModel removes a model from a mapper, unless a device uses it.
func (s *Server) removeUnusedModel(ctx context.Context, m *mapper, namespace, model string) {
	if model == "" || s.store.usesModel(m.info.Protocol, namespace, model) {
		return
	}
	err := m.call(ctx, func(ctx context.Context, c pb.DeviceMapperServiceClient) error {
		_, err := c.RemoveDeviceModel(ctx, &pb.RemoveDeviceModelRequest{ModelName: model, ModelNamespace: namespace})
		return err
	})
	if err != nil {
		s.log.Warn("remove unused model from mapper", zap.String("mapper", m.info.Name), zap.String("model", namespace+"/"+model), zap.Error(err))
	}
}

// bindingOf returns the binding of a device, and creates it if there is none.
func (s *Server) bindingOf(key string) *binding {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bindings[key] == nil {
		s.bindings[key] = newBinding()
	}
	return s.bindings[key]
}
