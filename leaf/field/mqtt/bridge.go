package mqtt

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// Config is what a Bridge needs. All fields are required.
type Config struct {
	Node string
	Conn *nats.Conn
	// Command carries a command out, at most once for its id, and returns at its deadline
	// at the latest. It is safe for concurrent use.
	Command func(context.Context, devices.Command) devices.CommandResult
	// Elsewhere tells whether another node of the site operates a device, whose bridge
	// then answers.
	Elsewhere func(namespace, name string) bool
	Log       *zap.Logger
}

// Bridge speaks for the devices of one node. Its methods are safe for concurrent use.
type Bridge struct {
	cfg Config

	mu      sync.Mutex
	devices map[string]*device
	// late are the devices whose changes wait because their last document was a moment
	// ago; waiting tells Run that there are some.
	late    map[*device]struct{}
	waiting chan struct{}
}

// New returns a Bridge that knows no devices yet.
func New(cfg Config) *Bridge {
	return &Bridge{cfg: cfg, devices: map[string]*device{}, late: map[*device]struct{}{}, waiting: make(chan struct{}, 1)}
}

// Apply takes a device of the node as it now is.
func (b *Bridge) Apply(o *v1beta1.Device) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := o.Namespace + "/" + o.Name
	d := b.devices[k]
	if d == nil {
		d = newDevice(o.Namespace, o.Name)
		b.devices[k] = d
		b.publish(nodeSubject(b.cfg.Node, membershipNews), memberNews{answerTo(""), []deviceState{d.describe()}, []deviceState{}})
	}
	if !d.apply(o) {
		return
	}
	if delta := d.delta(); len(delta) > 0 {
		b.publish(deviceSubject(d.namespace, d.name, twinDelta), deltaMessage{twinMessage{answerTo(o.ResourceVersion), d.twins()}, delta})
	}
}

// Remove forgets a device.
func (b *Bridge) Remove(namespace, name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.devices[namespace+"/"+name]
	if d == nil {
		return
	}
	delete(b.devices, namespace+"/"+name)
	delete(b.late, d)
	b.publish(nodeSubject(b.cfg.Node, membershipNews), memberNews{answerTo(""), []deviceState{}, []deviceState{d.describe()}})
}

// Samples tells what was read.
func (b *Bridge) Samples(s *devices.Samples) {
	b.send(dataSubject(s.Device.Namespace, s.Device.Name), appendData(make([]byte, 0, 64+128*len(s.Samples)), s))
	b.mu.Lock()
	defer b.mu.Unlock()
	if d := b.devices[s.Device.String()]; d != nil {
		d.observe(s)
		b.publishDocument(d)
	}
}

// Status tells the state of a device when it is another than before.
func (b *Bridge) Status(ref devices.Ref, status *v1beta1.DeviceStatus) {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.devices[ref.String()]
	if d == nil {
		return
	}
	was := d.state
	d.state, d.lastOnline = status.Status.State, status.Status.LastOnlineTime
	if d.state != was {
		b.publish(deviceSubject(d.namespace, d.name, stateResult), stateMessage{answerTo(""), d.describe()})
	}
	b.publishDocument(d)
}

// publishDocument tells what has changed, or has Run tell it when it is time.
func (b *Bridge) publishDocument(d *device) {
	if changes := d.document(time.Now()); changes != nil {
		b.publish(deviceSubject(d.namespace, d.name, twinDocument), documentMessage{answerTo(""), changes})
	}
	if len(d.told) == 0 {
		delete(b.late, d)
		return
	}
	b.late[d] = struct{}{}
	select {
	case b.waiting <- struct{}{}:
	default:
	}
}

// documents tells the changes that have waited long enough, and returns when the next
// ones will have; nil when none wait.
func (b *Bridge) documents() <-chan time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := documentInterval
	for d := range b.late {
		b.publishDocument(d)
		if len(d.told) > 0 {
			next = min(next, documentInterval-time.Since(d.toldAt))
		}
	}
	if len(b.late) == 0 {
		return nil
	}
	return time.After(next)
}

// members are the devices by name.
func (b *Bridge) members() []deviceState {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]deviceState, 0, len(b.devices))
	for _, k := range slices.Sorted(maps.Keys(b.devices)) {
		all = append(all, b.devices[k].describe())
	}
	return all
}

func (b *Bridge) publish(subject string, message any) {
	body, err := json.Marshal(message)
	if err != nil {
		b.cfg.Log.Error("not published", zap.String("subject", subject), zap.Error(err))
		return
	}
	b.send(subject, body)
}

// send is for those who listen now: what cannot be sent is not kept.
func (b *Bridge) send(subject string, body []byte) {
	if err := b.cfg.Conn.Publish(subject, body); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		b.cfg.Log.Debug("not published", zap.String("subject", subject), zap.Error(err))
	}
}
