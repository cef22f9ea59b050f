package dmi

import (
	"context"
	"sync"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/dmi/reports"
)

// session operates one device through its mapper.
type session struct {
	server   *Server
	device   devices.Ref
	protocol string
	points   []devices.Point
	delivery *delivery
	reports  *reports.Reporter
	attached chan struct{} // closed when the session is the current one of its device
}

func newSession(s *Server, def devices.Definition, unusable map[string]bool) *session {
	d := newDelivery(s, def, unusable)
	return &session{
		server: s, device: def.Device, protocol: def.Protocol, points: def.Points, delivery: d, attached: make(chan struct{}),
		reports: reports.New(def.Device, def.Points, s.timing.silence, s.timing.patience, d.unreachableReason, d.health),
	}
}

// Run delivers the device to its mapper, and again whenever the mapper may have lost it, and
// passes on the mapper's reports, until ctx ends. Then the device is removed from the mapper,
// unless another session operates it.
func (x *session) Run(ctx context.Context, deliver func(devices.Batch)) error {
	select {
	case <-ctx.Done():
		return nil
	case <-x.server.loaded:
	}
	x.server.attach(x)
	close(x.attached)
	defer x.server.detach(x)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { x.delivery.run(ctx) })
	x.reports.Run(ctx, deliver)
	return nil
}

// Redefine replaces the objects of the definition, after a change of desired values or push
// methods.
func (x *session) Redefine(def devices.Definition) { x.delivery.redefine(def) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
