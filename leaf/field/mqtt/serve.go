package mqtt

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
)

const (
	// updateTimeout is the timeout of an update.
	updateTimeout = 30 * time.Second
	// maxPendingRequests bounds the requests that wait to be handled. Requests above it are
	// dropped, as MQTT allows with QoS 0.
	maxPendingRequests = 1024
)

// Run answers requests until ctx ends. It returns after all updates in progress have been
// answered.
func (g *Gateway) Run(ctx context.Context) error {
	requests := make(chan *nats.Msg, maxPendingRequests)
	var updates sync.WaitGroup
	defer updates.Wait()
	for _, subject := range []string{
		devicePrefix + deviceWildcards + twinGet, devicePrefix + deviceWildcards + twinUpdate,
		devicePrefix + deviceWildcards + stateGet, devicePrefix + deviceWildcards + stateUpdate,
		nodeSubject(g.cfg.Node, membershipGet),
	} {
		sub, err := g.cfg.Conn.ChanSubscribe(subject, requests)
		if err != nil {
			return fmt.Errorf("subscribe %s: %w", subject, err)
		}
		defer func() {
			if err := sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
				g.cfg.Log.Warn("unsubscribe from MQTT topics", zap.String("subject", subject), zap.Error(err))
			}
		}()
	}
	var documentsDue <-chan time.Time // nil if no document waits
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.wake:
			if documentsDue == nil {
				documentsDue = g.documents()
			}
		case <-documentsDue:
			documentsDue = g.documents()
		case m := <-requests:
			if _, _, what, _ := parseDevice(m.Subject); what == twinUpdate {
				updates.Go(func() { g.update(ctx, m) })
				continue
			}
			g.serve(m)
		}
	}
}

// serve answers a request that is not a command to a device.
func (g *Gateway) serve(m *nats.Msg) {
	h, err := readHeader(m.Data)
	if m.Subject == nodeSubject(g.cfg.Node, membershipGet) {
		result := nodeSubject(g.cfg.Node, membershipList)
		if err != nil {
			g.publish(result, failure{newHeader(""), badRequest, err.Error()})
			return
		}
		g.publish(result, membershipMessage{newHeader(h.EventID), g.members()})
		return
	}
	namespace, name, what, ok := parseDevice(m.Subject)
	if !ok || g.cfg.OperatedElsewhere(namespace, name) {
		return
	}
	result := deviceSubject(namespace, name, what+".result")
	if err != nil {
		g.publish(result, failure{newHeader(""), badRequest, err.Error()})
		return
	}
	g.mu.Lock()
	d := g.devices[namespace+"/"+name]
	var answer any
	switch {
	case d == nil:
		answer = failure{newHeader(h.EventID), notFound, "the site has no device " + namespace + "/" + name}
	case what == twinGet:
		answer = twinMessage{newHeader(h.EventID), d.twins()}
	case what == stateGet:
		answer = stateMessage{newHeader(h.EventID), d.describe()}
	default:
		answer = failure{newHeader(h.EventID), badRequest, "the state is what the driver observes: it cannot be set"}
	}
	g.mu.Unlock()
	g.publish(result, answer)
}

// update sets the expected values of a request by a command whose id is the event_id. It
// answers with the twins or the error.
func (g *Gateway) update(ctx context.Context, m *nats.Msg) {
	namespace, name, _, _ := parseDevice(m.Subject)
	if g.cfg.OperatedElsewhere(namespace, name) {
		return
	}
	result := deviceSubject(namespace, name, twinResult)
	eventID, properties, err := readUpdate(m.Data)
	if err != nil {
		g.publish(result, failure{newHeader(eventID), badRequest, err.Error()})
		return
	}
	g.mu.Lock()
	known := g.devices[namespace+"/"+name] != nil
	g.mu.Unlock()
	if !known {
		g.publish(result, failure{newHeader(eventID), notFound, "the site has no device " + namespace + "/" + name})
		return
	}
	done := g.cfg.Command(ctx, devices.Command{
		ID: eventID, Device: devices.Ref{Namespace: namespace, Name: name}, Properties: properties, Deadline: time.Now().Add(updateTimeout),
	})
	if code := codeOf(done.Ack); code != 0 {
		g.publish(result, failure{newHeader(eventID), code, fmt.Sprintf("%s: %s: %s", done.Ack, done.Reason, done.Message)})
		return
	}
	twins := make(map[string]*twin, len(properties))
	for property, text := range properties {
		if after := done.Properties[property].After; after != "" {
			text = after
		}
		twins[property] = &twin{Actual: &value{Value: &text}}
	}
	g.publish(result, twinMessage{newHeader(eventID), twins})
}

// codeOf returns the error code of a command that was not applied, 0 for one that was.
func codeOf(a devices.Ack) int {
	switch a {
	case devices.Applied:
		return 0
	case devices.Rejected:
		return badRequest
	case devices.Superseded:
		return conflict
	default:
		return serverError
	}
}
