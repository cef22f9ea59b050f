package modbus

import (
	"context"
	"fmt"
	"sync"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus/link"
	"github.com/petiole-io/petiole/devices/modbus/wire"
)

// Driver is the devices.Driver for Modbus. One Driver serves all devices of a node:
// devices behind one endpoint share its link.
type Driver struct {
	log *zap.Logger

	mu    sync.Mutex
	links map[string]*sharedLink
	// unanswered has the requests without a reply of all links so far. Their replies may come to the
	// next link of the same line.
	unanswered map[string]*wire.Unanswered
}

// sharedLink is a link with a reference count. It stops when the last user releases it.
type sharedLink struct {
	link  *link.Link
	users int
	stop  context.CancelFunc
	done  chan struct{}
	// pollers has one poller for each unit, period and set of settings.
	pollers map[pollKey]*sharedPoller
}

type sharedPoller struct {
	poller *poller
	users  int
	stop   context.CancelFunc
	done   chan struct{}
}

// New returns a driver. It does no I/O and starts nothing. Log may be nil.
func New(log *zap.Logger) *Driver {
	if log == nil {
		log = zap.NewNop()
	}
	return &Driver{log: log, links: map[string]*sharedLink{}, unanswered: map[string]*wire.Unanswered{}}
}

// Protocols returns the names that manifests use for Modbus.
func (d *Driver) Protocols() []string {
	return []string{"modbus", "modbus-tcp", "modbus-rtu", "modbustcp", "modbusrtu"}
}

// Open validates a definition; settings and parsePoint list what it reads.
func (d *Driver) Open(def devices.Definition) (devices.Session, []devices.Problem, error) {
	s, points, problems, err := parse(def)
	if err != nil {
		return nil, problems, err
	}
	problems = append(problems, grouped(warnings(def, s, points))...)
	return &session{driver: d, def: def, settings: s, points: points, log: d.log.With(zap.String("device", def.Device.String()))}, problems, nil
}

// parse reads a definition. It leaves out points that have a problem.
func parse(def devices.Definition) (*settings, []point, []devices.Problem, error) {
	s, err := parseSettings(def.Config)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("protocol config: %w", err)
	}
	points := make([]point, 0, len(def.Points))
	var problems []devices.Problem
	for i, p := range def.Points {
		parsed, err := parsePoint(i, p, s)
		if err != nil {
			problems = append(problems, devices.Problem{Property: p.Name, Reason: devices.ReasonInvalidProperty, Message: err.Error()})
			continue
		}
		points = append(points, parsed)
	}
	points, wrong := checkGroups(def, &s, points)
	return &s, points, append(problems, wrong...), nil
}

// acquire returns the link of an endpoint and starts it for its first user. It fails
// when the serial port is in use with other settings. The caller must release the link.
func (d *Driver) acquire(e wire.Endpoint) (*link.Link, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.links[e.Key()]
	if s != nil && s.link.Endpoint() != e {
		return nil, fmt.Errorf("%w: %s is in use with other settings", wire.ErrLink, e.Address)
	}
	if s == nil {
		ctx, cancel := context.WithCancel(context.Background())
		s = &sharedLink{stop: cancel, done: make(chan struct{}), pollers: map[pollKey]*sharedPoller{}}
		s.link = link.New(e, d.unansweredOf(e), func() int { return d.users(e) }, d.log)
		d.links[e.Key()] = s
		go func() {
			defer close(s.done)
			s.link.Run(ctx)
		}()
	}
	s.users++
	return s.link, nil
}

func (d *Driver) unansweredOf(e wire.Endpoint) *wire.Unanswered {
	u := d.unanswered[e.Key()]
	if u == nil {
		u = &wire.Unanswered{}
		d.unanswered[e.Key()] = u
	}
	return u
}

// release drops one use of a link. The last release blocks until the link has stopped.
func (d *Driver) release(e wire.Endpoint) {
	d.mu.Lock()
	s := d.links[e.Key()]
	s.users--
	last := s.users == 0
	if last {
		delete(d.links, e.Key())
	}
	d.mu.Unlock()
	if last {
		s.stop()
		<-s.done
	}
}

// subscribe polls the points of a subscriber until unsubscribe. The caller must have
// acquired the link.
func (d *Driver) subscribe(k pollKey, sub *subscriber) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.links[k.settings.endpoint.Key()]
	p := s.pollers[k]
	if p == nil {
		ctx, cancel := context.WithCancel(context.Background())
		p = &sharedPoller{poller: newPoller(k, s.link, d.log), stop: cancel, done: make(chan struct{})}
		s.pollers[k] = p
		go func() {
			defer close(p.done)
			p.poller.run(ctx)
		}()
	}
	p.users++
	p.poller.add(sub)
}

// unsubscribe ends a subscription. The last one blocks until the poller has stopped.
func (d *Driver) unsubscribe(k pollKey, sub *subscriber) {
	d.mu.Lock()
	s := d.links[k.settings.endpoint.Key()]
	p := s.pollers[k]
	p.poller.remove(sub)
	p.users--
	last := p.users == 0
	if last {
		delete(s.pollers, k)
	}
	d.mu.Unlock()
	if last {
		p.stop()
		<-p.done
	}
}

func (d *Driver) users(e wire.Endpoint) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.links[e.Key()]; s != nil {
		return s.users
	}
	return 1
}
