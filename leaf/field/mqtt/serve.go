package mqtt

import (
	"context"
	"crypto/rand"
	"encoding/json"
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
			switch _, _, what, _ := parseDevice(m.Subject); what {
			case twinUpdate:
				if command := g.update(ctx, m); command != nil {
					updates.Go(command)
				}
			case stateUpdate:
				g.updateState(ctx, m)
			default:
				g.serve(m)
			}
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
	default:
		answer = stateMessage{newHeader(h.EventID), d.describe()}
	}
	g.mu.Unlock()
	g.publish(result, answer)
}

// update carries out an update. It hands on values that a mapper reports, in order, and returns
// a function that sets expected values, nil if there are none. The answer has the twins or the
// error.
func (g *Gateway) update(ctx context.Context, m *nats.Msg) (command func()) {
	namespace, name, _, _ := parseDevice(m.Subject)
	if g.cfg.OperatedElsewhere(namespace, name) {
		return nil
	}
	ref := devices.Ref{Namespace: namespace, Name: name}
	result := deviceSubject(namespace, name, twinResult)
	u, err := readUpdate(m.Data)
	if err != nil {
		g.publish(result, failure{newHeader(u.eventID), badRequest, err.Error()})
		return nil
	}
	if !g.known(ref) {
		g.publish(result, failure{newHeader(u.eventID), notFound, "the site has no device " + ref.String()})
		return nil
	}
	twins := make(map[string]*twin, len(u.expected)+len(u.actual))
	if len(u.actual) > 0 {
		if err := g.reportValues(ctx, ref, u.actual); err != nil {
			g.publish(result, failure{newHeader(u.eventID), badRequest, "twin.actual: " + err.Error()})
			return nil
		}
		for property, v := range u.actual {
			twins[property] = &twin{Actual: &value{Value: &v.Text}}
		}
	}
	if len(u.expected) == 0 {
		g.publish(result, twinMessage{newHeader(u.eventID), twins})
		return nil
	}
	return func() { g.set(ctx, ref, u, twins) }
}

// set sets the expected values of an update by a command whose id is the event_id. It answers
// with their twins, added to those of the reported values.
func (g *Gateway) set(ctx context.Context, ref devices.Ref, u update, twins map[string]*twin) {
	result := deviceSubject(ref.Namespace, ref.Name, twinResult)
	id := u.eventID
	if id == "" {
		id = rand.Text()
	}
	done := g.cfg.Command(ctx, devices.Command{ID: id, Device: ref, Properties: u.expected, Deadline: time.Now().Add(updateTimeout)})
	if code := codeOf(done.Ack); code != 0 {
		g.publish(result, failure{newHeader(u.eventID), code, fmt.Sprintf("%s: %s: %s", done.Ack, done.Reason, done.Message)})
		return
	}
	for property, text := range u.expected {
		if after := done.Properties[property].After; after != "" {
			text = after
		}
		twins[property] = &twin{Actual: &value{Value: &text}}
	}
	g.publish(result, twinMessage{newHeader(u.eventID), twins})
}

// updateState hands on the state that a mapper reports.
func (g *Gateway) updateState(ctx context.Context, m *nats.Msg) {
	namespace, name, _, _ := parseDevice(m.Subject)
	if g.cfg.OperatedElsewhere(namespace, name) {
		return
	}
	ref := devices.Ref{Namespace: namespace, Name: name}
	result := deviceSubject(namespace, name, stateResult)
	var u reportedState
	err := json.Unmarshal(m.Data, &u)
	switch {
	case err != nil:
		err = fmt.Errorf("read the payload: %w", err)
	case !g.known(ref):
		g.publish(result, failure{newHeader(u.EventID), notFound, "the site has no device " + ref.String()})
		return
	case g.cfg.Mappers == nil || !g.cfg.Mappers.Operates(ref):
		err = errors.New("the state is what the driver observes: it cannot be set")
	default:
		err = g.cfg.Mappers.ReportState(ctx, ref, u.State)
	}
	if err != nil {
		g.publish(result, failure{newHeader(u.EventID), badRequest, err.Error()})
		return
	}
	g.publish(result, stateMessage{newHeader(u.EventID), deviceState{ID: ref.String(), Name: name, State: u.State}})
}

// reportValues hands on values that a mapper reports.
func (g *Gateway) reportValues(ctx context.Context, ref devices.Ref, values map[string]devices.ReportedValue) error {
	if g.cfg.Mappers == nil || !g.cfg.Mappers.Operates(ref) {
		return errors.New("the values of the device come from the driver of its protocol")
	}
	return g.cfg.Mappers.ReportValues(ctx, ref, values)
}

// known reports whether the site has a device.
func (g *Gateway) known(ref devices.Ref) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.devices[ref.String()] != nil
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
