package dmi

import (
	"context"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	pb "github.com/petiole-io/petiole/devices/dmi/v1beta1"
)

// departure names a device that a mapper shall forget.
type departure struct {
	protocol string // in lower case
	key      string // namespace/name
}

func departureOf(protocol, key string) departure { return departure{strings.ToLower(protocol), key} }

// leaver is a device that a mapper shall forget.
type leaver struct {
	device devices.Ref
	model  string
	due    time.Time
	wait   time.Duration // until the next attempt after one that failed
}

func refOf(key string) devices.Ref {
	namespace, name, _ := strings.Cut(key, "/")
	return devices.Ref{Namespace: namespace, Name: name}
}

// leave has a device forgotten at its mapper. The server's lock is held.
func (s *Server) leave(device devices.Ref, r record, due time.Time) {
	s.leaving[departureOf(r.Protocol, device.String())] = leaver{device: device, model: r.Model, due: due, wait: s.timing.retry}
	s.stir()
}

// removeLeavers takes devices away from their mappers until ctx ends. A session's end
// comes with the leaf's too, and then devices stay: that is what the linger is for.
func (s *Server) removeLeavers(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.pending:
		case <-timer.C:
		}
		next := s.timing.retryMax
		for d, l := range s.leavers() {
			if wait := time.Until(l.due); wait > 0 {
				next = min(next, wait)
				continue
			}
			if again := s.remove(ctx, d, l); again > 0 {
				next = min(next, again)
			}
			if ctx.Err() != nil {
				return
			}
		}
		timer.Reset(next)
	}
}

func (s *Server) leavers() map[departure]leaver {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[departure]leaver, len(s.leaving))
	for d, l := range s.leaving {
		all[d] = l
	}
	return all
}

// remove takes a device away from its mapper. It answers after how long that must be
// tried again; zero: it is done, or waits for a mapper.
func (s *Server) remove(ctx context.Context, d departure, l leaver) time.Duration {
	p := s.placeOf(d.key)
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return 0
	}
	s.mu.Lock()
	_, still := s.leaving[d]
	m := s.mappers[d.protocol]
	s.mu.Unlock()
	if !still || m == nil || m.standing().phase != present {
		return 0
	}
	err := m.call(ctx, func(ctx context.Context, c pb.DeviceMapperServiceClient) error {
		_, err := c.RemoveDevice(ctx, &pb.RemoveDeviceRequest{DeviceName: l.device.Name, DeviceNamespace: l.device.Namespace})
		return err
	})
	log := s.log.With(zap.String("device", l.device.String()), zap.String("mapper", m.info.Name))
	if unreachable(err) {
		return s.postpone(d, l)
	}
	if err != nil { // most likely it did not know the device
		log.Warn("mapper complains of a device's removal", zap.Error(err))
	}
	s.gone(ctx, d, l, m, p, log)
	return 0
}

// postpone has a removal tried again.
func (s *Server) postpone(d departure, l leaver) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := l.wait
	l.due, l.wait = time.Now().Add(wait), min(2*wait, s.timing.retryMax)
	if _, still := s.leaving[d]; still {
		s.leaving[d] = l
	}
	return wait
}

// gone forgets a device that its mapper has forgotten. If it has come back meanwhile, it
// is brought to the mapper again.
func (s *Server) gone(ctx context.Context, d departure, l leaver, m *mapper, p *place, log *zap.Logger) {
	s.mu.Lock()
	delete(s.leaving, d)
	x := s.sessions[d.key]
	back := x != nil && x.place == p
	if back {
		p.mapper = nil
		s.store.note(d.key, func(r *record) { r.Has = hasNothing })
	} else if s.places[d.key] == p {
		delete(s.places, d.key)
	}
	s.mu.Unlock()
	if back {
		x.wake()
		return
	}
	if x == nil {
		s.store.drop(d.key)
		if err := s.store.flush(); err != nil {
			log.Warn("record of a removed device is left behind", zap.Error(err))
		}
	}
	log.Info("device removed from mapper")
	if l.model == "" || s.store.usesModel(d.protocol, l.device.Namespace, l.model) {
		return
	}
	err := m.call(ctx, func(ctx context.Context, c pb.DeviceMapperServiceClient) error {
		_, err := c.RemoveDeviceModel(ctx, &pb.RemoveDeviceModelRequest{ModelName: l.model, ModelNamespace: l.device.Namespace})
		return err
	})
	if err != nil {
		log.Warn("mapper keeps a model that nothing uses", zap.String("model", l.model), zap.Error(err))
	}
}

// placeOf is the place of a device, made when there is none.
func (s *Server) placeOf(key string) *place {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.places[key] == nil {
		s.places[key] = newPlace()
	}
	return s.places[key]
}
