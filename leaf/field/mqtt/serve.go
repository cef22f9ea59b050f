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
	// updateTime is how long an update may take.
	updateTime = 30 * time.Second
	// waitingRequests are held for a moment of many; more of them are lost, as MQTT
	// allows with QoS 0.
	waitingRequests = 1024
)

// Run answers applications until ctx ends and every update has been answered.
func (b *Bridge) Run(ctx context.Context) error {
	requests := make(chan *nats.Msg, waitingRequests)
	var updates sync.WaitGroup
	defer updates.Wait()
	for _, subject := range []string{
		devicePrefix + deviceWildcards + twinGet, devicePrefix + deviceWildcards + twinUpdate,
		devicePrefix + deviceWildcards + stateGet, devicePrefix + deviceWildcards + stateUpdate,
		nodeSubject(b.cfg.Node, membershipGet),
	} {
		sub, err := b.cfg.Conn.ChanSubscribe(subject, requests)
		if err != nil {
			return fmt.Errorf("subscribe %s: %w", subject, err)
		}
		defer func() {
			if err := sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
				b.cfg.Log.Warn("MQTT topics are still subscribed", zap.String("subject", subject), zap.Error(err))
			}
		}()
	}
	var due <-chan time.Time // nil while no document waits
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.waiting:
			if due == nil {
				due = b.documents()
			}
		case <-due:
			due = b.documents()
		case m := <-requests:
			if _, _, what, _ := parseDevice(m.Subject); what == twinUpdate {
				updates.Go(func() { b.update(ctx, m) })
				continue
			}
			b.serve(m)
		}
	}
}

// serve answers what needs no device.
func (b *Bridge) serve(m *nats.Msg) {
	h, err := readHeader(m.Data)
	if m.Subject == nodeSubject(b.cfg.Node, membershipGet) {
		result := nodeSubject(b.cfg.Node, membershipList)
		if err != nil {
			b.publish(result, failure{answerTo(""), badRequest, err.Error()})
			return
		}
		b.publish(result, memberMessage{answerTo(h.EventID), b.members()})
		return
	}
	namespace, name, what, ok := parseDevice(m.Subject)
	if !ok || b.cfg.Elsewhere(namespace, name) {
		return
	}
	result := deviceSubject(namespace, name, what+".result")
	if err != nil {
		b.publish(result, failure{answerTo(""), badRequest, err.Error()})
		return
	}
	b.mu.Lock()
	d := b.devices[namespace+"/"+name]
	var answer any
	switch {
	case d == nil:
		answer = failure{answerTo(h.EventID), notFound, "the site has no device " + namespace + "/" + name}
	case what == twinGet:
		answer = twinMessage{answerTo(h.EventID), d.twins()}
	case what == stateGet:
		answer = stateMessage{answerTo(h.EventID), d.describe()}
	default:
		answer = failure{answerTo(h.EventID), badRequest, "the state is what the driver observes: it cannot be set"}
	}
	b.mu.Unlock()
	b.publish(result, answer)
}

// update sets what an application expects, by a command whose id is the event_id, and
// answers with the twins or with why not.
func (b *Bridge) update(ctx context.Context, m *nats.Msg) {
	namespace, name, _, _ := parseDevice(m.Subject)
	if b.cfg.Elsewhere(namespace, name) {
		return
	}
	result := deviceSubject(namespace, name, twinResult)
	eventID, properties, err := readUpdate(m.Data)
	if err != nil {
		b.publish(result, failure{answerTo(eventID), badRequest, err.Error()})
		return
	}
	b.mu.Lock()
	known := b.devices[namespace+"/"+name] != nil
	b.mu.Unlock()
	if !known {
		b.publish(result, failure{answerTo(eventID), notFound, "the site has no device " + namespace + "/" + name})
		return
	}
	done := b.cfg.Command(ctx, devices.Command{
		ID: eventID, Device: devices.Ref{Namespace: namespace, Name: name}, Properties: properties, Deadline: time.Now().Add(updateTime),
	})
	if code := codeOf(done.Ack); code != 0 {
		b.publish(result, failure{answerTo(eventID), code, fmt.Sprintf("%s: %s: %s", done.Ack, done.Reason, done.Message)})
		return
	}
	twins := make(map[string]*twin, len(properties))
	for property, text := range properties {
		if after := done.Properties[property].After; after != "" {
			text = after
		}
		twins[property] = &twin{Actual: &value{Value: &text}}
	}
	b.publish(result, twinMessage{answerTo(eventID), twins})
}

// codeOf is the code of a command that was not applied, else 0.
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
