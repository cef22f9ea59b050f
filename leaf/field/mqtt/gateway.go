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

// Config configures a Gateway. All fields but Mappers and Interest are required.
type Config struct {
	Node string
	Conn *nats.Conn
	// Command executes a command at most once for each id. It returns soon after the
	// command's deadline at the latest and is safe for concurrent use.
	Command func(context.Context, devices.Command) devices.CommandResult
	// OperatedElsewhere reports whether another node of the site operates a device. The
	// gateway of that node then answers.
	OperatedElsewhere func(namespace, name string) bool
	// Mappers receives what applications that are mappers report. nil: there are none.
	Mappers devices.ReportReceiver
	// Interest reports whether anybody is subscribed to a subject; nil: somebody may be.
	Interest func(subject string) bool
	Log      *zap.Logger
}

// Gateway publishes and answers KubeEdge's topics for the devices of one node. Its methods
// are safe for concurrent use.
type Gateway struct {
	cfg Config

	mu      sync.Mutex
	devices map[string]*device
	// delayed holds the devices whose changes wait because less than documentInterval has
	// passed since their last document. wake tells Run that there are some.
	delayed map[*device]struct{}
	wake    chan struct{}
}

// New returns a Gateway without devices.
func New(cfg Config) *Gateway {
	return &Gateway{cfg: cfg, devices: map[string]*device{}, delayed: map[*device]struct{}{}, wake: make(chan struct{}, 1)}
}

// Apply adds or updates a device of the node.
func (g *Gateway) Apply(o *v1beta1.Device) {
	g.mu.Lock()
	defer g.mu.Unlock()
	k := o.Namespace + "/" + o.Name
	d := g.devices[k]
	if d == nil {
		d = newDevice(o.Namespace, o.Name)
		g.devices[k] = d
		g.publish(nodeSubject(g.cfg.Node, membershipUpdated), membershipUpdate{newHeader(""), []deviceState{d.describe()}, []deviceState{}})
	}
	if !d.apply(o) || g.mapped(d) { // a mapper gets values by Announce, after they were validated
		return
	}
	if delta := d.delta(); len(delta) > 0 {
		g.publish(deviceSubject(d.namespace, d.name, twinDelta), deltaMessage{twinMessage{newHeader(o.ResourceVersion), d.twins()}, delta})
	}
}

// mapped reports whether a mapper operates a device.
func (g *Gateway) mapped(d *device) bool {
	return g.cfg.Mappers != nil && g.cfg.Mappers.Operates(devices.Ref{Namespace: d.namespace, Name: d.name})
}

// Announce sends a value to the mapper of a device, which is expected to write it and to report
// it afterwards.
func (g *Gateway) Announce(ref devices.Ref, property, text string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.devices[ref.String()]
	if d == nil {
		return
	}
	twins := d.twins()
	t := twin{}
	if is := twins[property]; is != nil {
		t = *is
	}
	t.Expected = &value{Value: &text, Metadata: &valueInfo{Timestamp: time.Now().UnixMilli()}}
	twins[property] = &t
	g.publish(deviceSubject(d.namespace, d.name, twinDelta), deltaMessage{twinMessage{newHeader(""), twins}, map[string]string{property: text}})
}

// Remove removes a device.
func (g *Gateway) Remove(namespace, name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.devices[namespace+"/"+name]
	if d == nil {
		return
	}
	delete(g.devices, namespace+"/"+name)
	delete(g.delayed, d)
	g.publish(nodeSubject(g.cfg.Node, membershipUpdated), membershipUpdate{newHeader(""), []deviceState{}, []deviceState{d.describe()}})
}

// interest reports whether anybody may be subscribed to a subject. What is read from a device is not
// encoded for nobody.
func (g *Gateway) interest(subject string) bool {
	return g.cfg.Interest == nil || g.cfg.Interest(subject)
}

// Samples publishes what was read from a device.
func (g *Gateway) Samples(s *devices.Samples) {
	if data := dataSubject(s.Device.Namespace, s.Device.Name); g.interest(data) {
		g.send(data, appendData(make([]byte, 0, 64+128*len(s.Samples)), s))
	}
	followed := g.interest(deviceSubject(s.Device.Namespace, s.Device.Name, twinDocument))
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.devices[s.Device.String()]
	if d == nil {
		return
	}
	d.observe(s, followed)
	g.publishDocument(d)
}

// Status publishes the state of a device if it has changed.
func (g *Gateway) Status(ref devices.Ref, status *v1beta1.DeviceStatus) {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.devices[ref.String()]
	if d == nil {
		return
	}
	d.withhold(status, g.mapped(d))
	was := d.state
	d.state, d.lastOnline = status.Status.State, status.Status.LastOnlineTime
	if d.state != was {
		g.publish(deviceSubject(d.namespace, d.name, stateResult), stateMessage{newHeader(""), d.describe()})
	}
	g.publishDocument(d)
}

// publishDocument publishes the changes of a device, or leaves them to Run if the last
// document was less than documentInterval ago.
func (g *Gateway) publishDocument(d *device) {
	if changes := d.document(time.Now()); changes != nil {
		g.publish(deviceSubject(d.namespace, d.name, twinDocument), documentMessage{newHeader(""), changes})
	}
	if len(d.changed) == 0 {
		delete(g.delayed, d)
		return
	}
	g.delayed[d] = struct{}{}
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// documents publishes the documents that are due. It returns a channel that fires when the
// next one is due, nil if no document waits.
func (g *Gateway) documents() <-chan time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	next := documentInterval
	for d := range g.delayed {
		g.publishDocument(d)
		if len(d.changed) > 0 {
			next = min(next, documentInterval-time.Since(d.documentAt))
		}
	}
	if len(g.delayed) == 0 {
		return nil
	}
	return time.After(next)
}

// members returns the devices, sorted by name.
func (g *Gateway) members() []deviceState {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make([]deviceState, 0, len(g.devices))
	for _, k := range slices.Sorted(maps.Keys(g.devices)) {
		all = append(all, g.devices[k].describe())
	}
	return all
}

func (g *Gateway) publish(subject string, message any) {
	body, err := json.Marshal(message)
	if err != nil {
		g.cfg.Log.Error("encode MQTT message", zap.String("subject", subject), zap.Error(err))
		return
	}
	g.send(subject, body)
}

// send publishes to those who are subscribed now. It drops a message that cannot be sent.
func (g *Gateway) send(subject string, body []byte) {
	if err := g.cfg.Conn.Publish(subject, body); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		g.cfg.Log.Debug("publish MQTT message", zap.String("subject", subject), zap.Error(err))
	}
}
