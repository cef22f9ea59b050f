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

// errRefused reports that an endpoint will never accept a message.
var errRefused = errors.New("refused")

// Config configures a Pusher.
type Config struct {
	// Queue bounds the messages that wait for one endpoint; zero: 1,024.
	Queue int
	// Format is the form of messages; empty: FormatJSON.
	Format Format
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

// Stats counts the messages to one endpoint since the start.
type Stats struct {
	Endpoint string
	// Sent counts messages that the endpoint has accepted, Refused those that it never will,
	// Dropped those that a full queue has dropped, and Waiting those in the queue.
	Sent, Refused, Dropped uint64
	Waiting                int
}

// New returns a Pusher. It does no I/O and starts nothing.
func New(cfg Config) *Pusher {
	if cfg.Queue <= 0 {
		cfg.Queue = 1024
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	return &Pusher{cfg: cfg, schedules: map[string]*schedule{}, endpoints: map[string]*endpoint{}}
}

// Run sends until ctx ends and everything it started has stopped. Messages that wait then are
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

// Apply sets or replaces the push methods of a device and returns their problems.
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
	p.updateEndpoints()
	return problems
}

// Remove removes the push methods of a device.
func (p *Pusher) Remove(namespace, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.schedules, namespace+"/"+name)
	p.updateEndpoints()
}

// updateEndpoints starts and stops endpoints so that they are those of the schedules. The
// caller holds p.mu.
func (p *Pusher) updateEndpoints() {
	used := map[string]bool{}
	for _, s := range p.schedules {
		for _, entries := range s.rules {
			for _, t := range entries {
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

// Offer queues those samples of a device that are due. It never blocks.
func (p *Pusher) Offer(b *devices.Samples) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.schedules[b.Device.String()]
	if s == nil {
		return
	}
	messages, err := s.due(b, p.cfg.Format)
	if err != nil {
		p.cfg.Log.Warn("encode samples for push", zap.String("device", b.Device.String()), zap.Error(err))
	}
	for _, m := range messages {
		p.endpoints[m.Target.Endpoint].queue.put(m)
	}
}

// Stats returns the counters of every endpoint in use, in order of address.
func (p *Pusher) Stats() []Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []Stats
	for _, address := range slices.Sorted(maps.Keys(p.endpoints)) {
		all = append(all, p.endpoints[address].stats())
	}
	return all
}
