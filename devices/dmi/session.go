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

// The reasons why a device is unreachable.
const (
	ReasonNoMapper      = "NoMapper"
	ReasonMapperAway    = "MapperAway"
	ReasonMapperRefuses = "MapperRefuses"
	ReasonSilent        = "Silent"
)

// reportQueue bounds the reports of a device that wait for its worker.
const reportQueue = 64

// session operates one device through its mapper.
type session struct {
	server   *Server
	device   devices.Ref
	protocol string
	points   []devices.Point
	log      *zap.Logger

	reports  chan report
	changed  chan struct{} // the device may have to be delivered
	health   chan struct{} // the result of unreachableReason may have changed
	attached chan struct{} // closed when the session is the current one of its device
	binding  *binding      // set by then

	unusable map[string]bool // properties that cannot be converted for a mapper

	mu          sync.Mutex
	def         devices.Definition
	refusal     refusal
	lastReports []lastReport
	watchers    map[int]chan lastReport
}

// refusal is why a device could not be delivered although its mapper responds; zero: it was.
type refusal struct{ reason, message string }

// lastReport is the last report of a point.
type lastReport struct {
	reading  devices.Reading
	observed string // the desired value that the mapper has
	at       time.Time
	// repeats reports that the mapper reports unchanged values, too.
	repeats bool
}

func newSession(s *Server, def devices.Definition, unusable map[string]bool) *session {
	return &session{
		server: s, device: def.Device, protocol: def.Protocol, points: def.Points,
		log:     s.log.With(zap.String("device", def.Device.String()), zap.String("protocol", def.Protocol)),
		reports: make(chan report, reportQueue), changed: make(chan struct{}, 1), health: make(chan struct{}, 1), attached: make(chan struct{}),
		def: def, unusable: unusable,
		lastReports: make([]lastReport, len(def.Points)), watchers: map[int]chan lastReport{},
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
	wg.Go(func() { x.deliverLoop(ctx) })
	(&reporter{session: x, deliver: deliver}).run(ctx)
	return nil
}

// Redefine replaces the objects of the definition, after a change of desired values or push
// methods.
func (x *session) Redefine(def devices.Definition) {
	x.mu.Lock()
	x.def = def
	x.mu.Unlock()
	signal(x.changed)
}

// wake makes the session check its mapper again.
func (x *session) wake() {
	signal(x.changed)
	signal(x.health)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// errQueueFull reports that the device's queue is full.
var errQueueFull = errors.New("the device's queue is full")

// enqueue queues a report. It waits up to timing.patience for room.
func (x *session) enqueue(ctx context.Context, r report) error {
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
		return fmt.Errorf("report of %s: %w", x.device, errQueueFull)
	}
}

// unreachableReason returns why the device cannot be operated now. The reason is empty if it
// can, or if the mapper may still be starting.
func (x *session) unreachableReason() (reason, message string) {
	m := x.server.mapper(x.protocol)
	if m == nil {
		return ReasonNoMapper, fmt.Sprintf("no mapper for protocol %q has registered", x.protocol)
	}
	if p := m.currentPresence(); p.phase == away {
		return ReasonMapperAway, fmt.Sprintf("mapper %s does not respond: %s", m.info.Name, p.message)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.refusal.reason, x.refusal.message
}

// recordReport records a report and notifies watchers.
func (x *session) recordReport(r report) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i, d := range r.observed {
		x.lastReports[i].observed = d
	}
	for _, reading := range r.readings {
		s := &x.lastReports[reading.Point]
		cycle := x.points[reading.Point].Cycle
		if reading.Quality == devices.Good && reading.Value == s.reading.Value && r.at.Sub(s.at) < 3*cycle {
			s.repeats = true
		}
		s.reading, s.at = reading, r.at
	}
	reported := map[int]bool{}
	for _, reading := range r.readings {
		reported[reading.Point] = true
		x.notify(reading.Point, x.lastReports[reading.Point])
	}
	for i, d := range r.observed {
		if !reported[i] { // the mapper has the desired value and nothing to report
			x.notify(i, lastReport{observed: d, at: r.at})
		}
	}
}

// notify sends a report to the watcher of its point. A newer one replaces an older one.
func (x *session) notify(point int, s lastReport) {
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

// watch returns a channel with the reports of a point until release is called.
func (x *session) watch(point int) (reports <-chan lastReport, release func()) {
	w := make(chan lastReport, 1)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.watchers[point] = w
	return w, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(x.watchers, point)
	}
}
