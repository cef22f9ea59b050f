package dmi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
)

// The reasons for which a device is unreachable.
const (
	ReasonNoMapper      = "NoMapper"
	ReasonMapperAway    = "MapperAway"
	ReasonMapperRefuses = "MapperRefuses"
	ReasonSilent        = "Silent"
)

// reportQueue is how many reports of a device may wait for its worker.
const reportQueue = 64

// session operates one device by its mapper.
type session struct {
	server   *Server
	device   devices.Ref
	protocol string
	points   []devices.Point
	log      *zap.Logger

	reports chan report
	news    chan struct{} // what the mapper shall have may have changed
	health  chan struct{} // how the device stands may have changed
	joined  chan struct{} // closed when the session is the one of its device
	place   *place        // set then

	unusable map[string]bool // properties that no mapper can be told of

	mu       sync.Mutex
	def      devices.Definition
	refusal  refusal
	seen     []sighting
	watchers map[int]chan sighting
}

// refusal is why a device does not get to its mapper though that answers; zero: it does.
type refusal struct{ reason, message string }

// sighting is the last that was reported of a point.
type sighting struct {
	reading  devices.Reading
	observed string // the desired value that the mapper had
	at       time.Time
	// repeats tells that the mapper reports also what has not changed.
	repeats bool
}

func newSession(s *Server, def devices.Definition, unusable map[string]bool) *session {
	return &session{
		server: s, device: def.Device, protocol: def.Protocol, points: def.Points,
		log:     s.log.With(zap.String("device", def.Device.String()), zap.String("protocol", def.Protocol)),
		reports: make(chan report, reportQueue), news: make(chan struct{}, 1), health: make(chan struct{}, 1), joined: make(chan struct{}),
		def: def, unusable: unusable,
		seen: make([]sighting, len(def.Points)), watchers: map[int]chan sighting{},
	}
}

// Run brings the device to its mapper, and again whenever it may have lost it, and
// delivers what the mapper reports, until ctx ends. Then the mapper is told to forget
// the device, unless another session for it runs.
func (x *session) Run(ctx context.Context, deliver func(devices.Batch)) error {
	select {
	case <-ctx.Done():
		return nil
	case <-x.server.loaded:
	}
	x.server.attach(x)
	close(x.joined)
	defer x.server.detach(x)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { x.bringAlways(ctx) })
	(&teller{session: x, deliver: deliver}).run(ctx)
	return nil
}

// Redefine takes over objects that differ in what is no part of the definition, such as
// desired values and push methods.
func (x *session) Redefine(def devices.Definition) {
	x.mu.Lock()
	x.def = def
	x.mu.Unlock()
	poke(x.news)
}

// wake makes the session look at its mapper again.
func (x *session) wake() {
	poke(x.news)
	poke(x.health)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// errBehind reports that the device's queue has no room.
var errBehind = errors.New("the device's queue is full")

// offer hands a report to the session, and waits a while for room.
func (x *session) offer(ctx context.Context, r report) error {
	select {
	case x.reports <- r:
		return nil
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, x.server.timing.patience)
	defer cancel()
	select {
	case x.reports <- r:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("report of %s: %w", x.device, errBehind)
	}
}

// trouble is why the device cannot be operated now; reason is empty when it can, or
// when it is too early to tell.
func (x *session) trouble() (reason, message string) {
	m := x.server.mapper(x.protocol)
	if m == nil {
		return ReasonNoMapper, fmt.Sprintf("no mapper for protocol %q has registered", x.protocol)
	}
	if p := m.standing(); p.phase == away {
		return ReasonMapperAway, fmt.Sprintf("mapper %s does not answer: %s", m.info.Name, p.message)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.refusal.reason, x.refusal.message
}

// see remembers a report and tells who waits for it.
func (x *session) see(r report) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i, d := range r.observed {
		x.seen[i].observed = d
	}
	for _, reading := range r.readings {
		s := &x.seen[reading.Point]
		cycle := x.points[reading.Point].Cycle
		if reading.Quality == devices.Good && reading.Value == s.reading.Value && r.at.Sub(s.at) < 3*cycle {
			s.repeats = true
		}
		s.reading, s.at = reading, r.at
	}
	reported := map[int]bool{}
	for _, reading := range r.readings {
		reported[reading.Point] = true
		x.tell(reading.Point, x.seen[reading.Point])
	}
	for i, d := range r.observed {
		if !reported[i] { // the mapper has the desired value and nothing to report
			x.tell(i, sighting{observed: d, at: r.at})
		}
	}
}

// tell hands a sighting to who waits for it; the newest counts.
func (x *session) tell(point int, s sighting) {
	w := x.watchers[point]
	if w == nil {
		return
	}
	select {
	case <-w:
	default:
	}
	w <- s
}

// watch has the sightings of a point come into a channel until release is called.
func (x *session) watch(point int) (sightings <-chan sighting, release func()) {
	w := make(chan sighting, 1)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.watchers[point] = w
	return w, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(x.watchers, point)
	}
}
