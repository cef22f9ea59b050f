package modbus

import (
	"context"
	"fmt"
	"sync"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
)

// Driver is the devices.Driver for Modbus. One Driver serves all devices of a node:
// devices behind one endpoint share its link.
type Driver struct {
	log *zap.Logger

	mu    sync.Mutex
	links map[string]*shared
}

// shared is a link that lives as long as somebody uses it.
type shared struct {
	link  *link
	users int
	stop  context.CancelFunc
	done  chan struct{}
	// pollers read what the devices of one unit want with one period.
	pollers map[pollKey]*sharedPoller
}

type sharedPoller struct {
	poller *poller
	users  int
	stop   context.CancelFunc
	done   chan struct{}
}

// New makes a driver that does nothing yet. Log may be nil.
func New(log *zap.Logger) *Driver {
	if log == nil {
		log = zap.NewNop()
	}
	return &Driver{log: log, links: map[string]*shared{}}
}

// Protocols are the names of Modbus in manifests.
func (d *Driver) Protocols() []string {
	return []string{"modbus", "modbus-tcp", "modbus-rtu", "modbustcp", "modbusrtu"}
}

// Open checks a definition; see settings and parsePoint for what it reads.
func (d *Driver) Open(def devices.Definition) (devices.Session, []devices.Problem, error) {
	s, points, problems, err := parse(def)
	if err != nil {
		return nil, problems, err
	}
	return &session{driver: d, def: def, settings: s, points: points, log: d.log.With(zap.String("device", def.Device.String()))}, problems, nil
}

// parse reads a definition. Points with a problem are left out.
func parse(def devices.Definition) (*settings, []point, []devices.Problem, error) {
	s, err := parseSettings(def.Config)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("protocol config: %w", err)
	}
	var points []point
	var problems []devices.Problem
	for i, p := range def.Points {
		parsed, err := parsePoint(i, p, s)
		if err != nil {
			problems = append(problems, devices.Problem{Property: p.Name, Reason: devices.ReasonInvalidProperty, Message: err.Error()})
			continue
		}
		points = append(points, parsed)
	}
	return &s, points, problems, nil
}

// acquire gives the link of an endpoint, and starts it for its first user. It fails
// when the serial port is in use with other settings. Every success is followed by
// one release.
func (d *Driver) acquire(e endpoint) (*link, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.links[e.key()]
	if s != nil && s.link.endpoint != e {
		return nil, fmt.Errorf("%w: %s is in use with other settings", errLink, e.address)
	}
	if s == nil {
		ctx, cancel := context.WithCancel(context.Background())
		s = &shared{stop: cancel, done: make(chan struct{}), pollers: map[pollKey]*sharedPoller{}}
		s.link = newLink(e, func() int { return d.users(e) }, d.log)
		d.links[e.key()] = s
		go func() {
			defer close(s.done)
			s.link.run(ctx)
		}()
	}
	s.users++
	return s.link, nil
}

// release gives a link back; the last user's waits until it has stopped.
func (d *Driver) release(e endpoint) {
	d.mu.Lock()
	s := d.links[e.key()]
	s.users--
	last := s.users == 0
	if last {
		delete(d.links, e.key())
	}
	d.mu.Unlock()
	if last {
		s.stop()
		<-s.done
	}
}

// subscribe has the points of a subscriber read until unsubscribe. The caller has
// acquired the link.
func (d *Driver) subscribe(k pollKey, sub *subscriber) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.links[k.settings.endpoint.key()]
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

// unsubscribe ends a subscription; the last one's waits until the poller has stopped.
func (d *Driver) unsubscribe(k pollKey, sub *subscriber) {
	d.mu.Lock()
	s := d.links[k.settings.endpoint.key()]
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

func (d *Driver) users(e endpoint) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.links[e.key()]; s != nil {
		return s.users
	}
	return 1
}
