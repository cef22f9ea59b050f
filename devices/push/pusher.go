package push

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

const (
	retryWait    = 200 * time.Millisecond
	retryWaitMax = 30 * time.Second
)

// errRefused reports that an endpoint will not take a message however often it is sent.
var errRefused = errors.New("refused")

// Config is what a Pusher needs.
type Config struct {
	// Queue is how many messages wait for one endpoint at most; zero: 1,024.
	Queue int
	// Log may be nil.
	Log *zap.Logger
}

// Pusher pushes the samples of many devices. Its methods are safe for concurrent use;
// those of one device must not overlap.
type Pusher struct {
	cfg Config

	mu        sync.Mutex
	schedules map[string]*schedule
	endpoints map[string]*endpoint
	start     func(*endpoint) // set while Run runs
}

// Stats is what became of the messages to one endpoint since the start.
type Stats struct {
	Endpoint string
	// Sent were taken by the endpoint, Refused were not and will not be, Dropped were
	// never tried to the end because newer ones needed the room, Waiting are in the queue.
	Sent, Refused, Dropped uint64
	Waiting                int
}

// New returns a Pusher that does nothing yet.
func New(cfg Config) *Pusher {
	if cfg.Queue <= 0 {
		cfg.Queue = 1024
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	return &Pusher{cfg: cfg, schedules: map[string]*schedule{}, endpoints: map[string]*endpoint{}}
}

// Run sends until ctx ends and everything it started has stopped. What waits then is
// lost. It may be called once.
func (p *Pusher) Run(ctx context.Context) error {
	var running sync.WaitGroup
	p.mu.Lock()
	p.start = func(e *endpoint) { running.Go(func() { e.run(ctx) }) }
	for _, e := range p.endpoints {
		p.start(e)
	}
	p.mu.Unlock()
	<-ctx.Done()
	p.mu.Lock()
	p.start = nil
	p.mu.Unlock()
	running.Wait()
	return nil
}

// Apply makes the pusher follow the push methods of a device as it now is and returns
// what is wrong with them.
func (p *Pusher) Apply(d *v1beta1.Device) []devices.Problem {
	rules, problems := Plan(d)
	p.mu.Lock()
	defer p.mu.Unlock()
	k := d.Namespace + "/" + d.Name
	if len(rules) == 0 {
		delete(p.schedules, k)
	} else {
		p.schedules[k] = newSchedule(rules, p.schedules[k])
	}
	p.settle()
	return problems
}

// Remove forgets a device.
func (p *Pusher) Remove(namespace, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.schedules, namespace+"/"+name)
	p.settle()
}

// settle makes the endpoints those of the schedules. p.mu is held.
func (p *Pusher) settle() {
	used := map[string]bool{}
	for _, s := range p.schedules {
		for _, turns := range s.rules {
			for _, t := range turns {
				used[t.Target.Endpoint] = true
			}
		}
	}
	for address, e := range p.endpoints {
		if !used[address] {
			close(e.unused)
			delete(p.endpoints, address)
		}
	}
	for address := range used {
		if p.endpoints[address] == nil {
			p.endpoints[address] = newEndpoint(address, p.cfg.Queue, p.cfg.Log)
			if p.start != nil {
				p.start(p.endpoints[address])
			}
		}
	}
}

// Offer takes the samples of a device that are due. It never blocks.
func (p *Pusher) Offer(b *devices.Samples) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.schedules[b.Device.String()]
	if s == nil {
		return
	}
	messages, err := s.due(b)
	if err != nil {
		p.cfg.Log.Warn("samples are not pushed", zap.String("device", b.Device.String()), zap.Error(err))
	}
	for _, m := range messages {
		p.endpoints[m.Target.Endpoint].queue.put(m)
	}
}

// Stats tells of every endpoint in use, by address.
func (p *Pusher) Stats() []Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []Stats
	for _, address := range slices.Sorted(maps.Keys(p.endpoints)) {
		all = append(all, p.endpoints[address].stats())
	}
	return all
}
