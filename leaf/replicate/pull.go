package replicate

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams/window"
)

const (
	// pullWindow bounds the bytes of one request for deliveries, pullTarget the time it should
	// take. At most one and a half requests are in flight.
	pullWindow = 1 << 20
	pullTarget = time.Second
	// idleMessages is the number of deliveries that a request asks for while nothing waits. They
	// may arrive at any later time, on a line that has become slower, and are lost when the line
	// is cut.
	idleMessages = 8
	// pullExpires is the time after which an idle request is repeated.
	pullExpires = 5 * time.Minute
	// The first request of a session expires early, and the hub sends heartbeats early: another
	// request, whose answers reach nobody, may have taken the first deliveries, which only a
	// heartbeat shows.
	firstExpires   = 4 * time.Second
	firstHeartbeat = time.Second
)

// pullRequest is the body of a request for deliveries (ADR-13). Its fields' names and units
// are JetStream's.
type pullRequest struct {
	Batch     int           `json:"batch"`
	MaxBytes  int           `json:"max_bytes,omitempty"`
	Expires   time.Duration `json:"expires"`
	Heartbeat time.Duration `json:"idle_heartbeat"`
}

// openRequest is a request that the hub has not finished.
type openRequest struct {
	id    int
	asked time.Time
	// messages and bytes are what may still arrive, got is what has arrived. bytes is 0 if one
	// message of any size may arrive.
	messages, bytes, got, size int
	alone                      bool
	// busy is set while the hub, as far as is known, always has the next delivery at hand.
	busy bool
}

// puller requests deliveries from the hub, as many bytes as the line carries in pullTarget. It
// sends the next request when half of the current one has arrived, so that the line is never
// idle.
type puller struct {
	publish func(inbox string, body []byte) error
	window  *window.Window
	// heartbeat is the time between two heartbeats of an idle request.
	heartbeat time.Duration
	// inbox is the subject prefix of deliveries; the last token is the number of the request.
	inbox string

	last     int
	requests []*openRequest
	// waiting is the number of deliveries left at the hub according to its last message.
	waiting uint64
	// large is set if the next message does not fit into the window.
	large bool
	// idleSince is the time since when the line has had nothing to carry for the oldest request.
	idleSince time.Time
}

// newPullWindow returns the window of the requests on an unknown line.
func newPullWindow() window.Window { return window.New(pullWindow, pullTarget) }

// request sends the next request if it is time for it.
func (p *puller) request(now time.Time) error {
	switch {
	case len(p.requests) == 0:
	case len(p.requests) == 1 && p.waiting > 0 && !p.requests[0].alone && p.requests[0].half():
		if r := p.requests[0]; r.busy && now.Sub(p.startOf(r)) > p.window.Target() {
			p.window.Record(r.got, now.Sub(p.startOf(r))) // slower than expected
		}
	default:
		return nil
	}
	r := pullRequest{Batch: transfer.BatchMessages, MaxBytes: p.window.Bytes(), Expires: max(pullExpires, 4*p.heartbeat), Heartbeat: p.heartbeat}
	if p.last == 0 {
		r.Expires, r.Heartbeat = firstExpires, firstHeartbeat
	}
	switch {
	case p.large:
		r.Batch, r.MaxBytes = 1, 0
	case p.waiting == 0:
		r.Batch, r.MaxBytes = idleMessages, min(p.window.Bytes(), window.First)
	}
	body, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode a request for deliveries: %w", err)
	}
	p.last++
	p.requests = append(p.requests, &openRequest{
		id: p.last, asked: now, messages: r.Batch, bytes: r.MaxBytes, size: r.MaxBytes, alone: p.large, busy: p.waiting > 0,
	})
	p.large = false
	if err := p.publish(p.inbox+"."+strconv.Itoa(p.last), body); err != nil {
		return fmt.Errorf("request deliveries: %w", err)
	}
	return nil
}

// half reports whether half of the request has arrived, or anything for a request that waited
// for news.
func (r *openRequest) half() bool {
	return r.got > 0 && (!r.busy || r.bytes <= r.size/2 || r.messages <= transfer.BatchMessages/2)
}

// delivered takes note of a delivery. The hub answers requests in order while it has something
// to deliver.
func (p *puller) delivered(d delivery, now time.Time) {
	p.waiting = d.pending
	if len(p.requests) == 0 {
		return
	}
	r, size := p.requests[0], d.Size()
	r.got += size
	r.messages--
	r.bytes -= size
	if r.messages == 0 || r.bytes <= 0 && !r.alone {
		p.finish(0, now)
	}
	if d.pending == 0 {
		for _, r := range p.requests {
			r.busy = false
		}
	}
}

// finish removes a request and updates the window.
func (p *puller) finish(i int, now time.Time) {
	r := p.requests[i]
	p.requests = append(p.requests[:i], p.requests[i+1:]...)
	took := now.Sub(p.startOf(r))
	p.idleSince = now
	switch {
	case r.got == 0:
	case r.busy:
		p.window.Record(r.got, took)
	default:
		p.window.Progressed()
	}
}

// startOf returns the time since when the line was free for the answers to a request.
func (p *puller) startOf(r *openRequest) time.Time {
	if p.idleSince.After(r.asked) {
		return p.idleSince
	}
	return r.asked
}

// status processes a status message of the hub about a request: that it waits, or why it ended.
// An error ends the session.
func (p *puller) status(msg *nats.Msg, now time.Time) error {
	code, why := msg.Header.Get("Status"), msg.Header.Get("Description")
	if code == "503" {
		return errors.New("request deliveries: the hub has no consumer for this site")
	}
	id, err := strconv.Atoi(msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:])
	if err != nil {
		return fmt.Errorf("message on %s is neither a delivery nor about a request", msg.Subject)
	}
	tooLarge := code == "409" && why == "Message Size Exceeds MaxBytes"
	if code != "408" && !tooLarge && (code != "409" || why != "Batch Completed") {
		return fmt.Errorf("request deliveries: the hub answers %s %s", code, why)
	}
	for i, r := range p.requests {
		if r.id != id {
			continue
		}
		if tooLarge {
			p.waiting = max(p.waiting, 1)
			p.large = r.got == 0
		}
		p.finish(i, now)
		break
	}
	return nil
}
