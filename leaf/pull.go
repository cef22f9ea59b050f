package leaf

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/streams"
)

const (
	// pullWindow bounds one request for deliveries, pullTarget is how long one may take.
	// One and a half are under way at most.
	pullWindow = 1 << 20
	pullTarget = time.Second
	// idleMessages is how many deliveries a request asks for that waits for news: what it
	// asked for may come at any time later, on a line that has become slower, and is lost
	// when the line is cut.
	idleMessages = 8
	// pullExpires is after how long a request that waits is made again.
	pullExpires = 5 * time.Minute
)

// pullRequest is the body of a request for deliveries (ADR-13). Its fields' names and units
// are JetStream's.
type pullRequest struct {
	Batch     int           `json:"batch"`
	MaxBytes  int           `json:"max_bytes,omitempty"`
	Expires   time.Duration `json:"expires"`
	Heartbeat time.Duration `json:"idle_heartbeat"`
}

// pulled is a request that the hub has not dealt with yet.
type openRequest struct {
	id    int
	asked time.Time
	// messages and bytes are what may still come, got is what came. bytes is 0 when one
	// message of any size may.
	messages, bytes, got, size int
	alone                      bool
	// busy: as far as is known, the hub always had the next delivery at hand.
	busy bool
}

// puller asks the hub for deliveries, for as many bytes as the line carries in pullTarget.
// The next request is made when half of the one before has come, so that the line does not
// wait for it.
type puller struct {
	publish func(inbox string, body []byte) error
	window  *window
	// inbox is where deliveries come; the number of the request is its last token.
	inbox string

	last     int
	requests []*openRequest
	// waiting is how many deliveries the hub had left when it was last heard of.
	waiting uint64
	// large: what comes next does not fit into the window.
	large bool
	// free is since when the line has had nothing to carry for the oldest request.
	idleSince time.Time
}

// ask makes the next request when it is time for it.
func (p *puller) request(now time.Time) error {
	switch {
	case len(p.requests) == 0:
	case len(p.requests) == 1 && p.waiting > 0 && !p.requests[0].alone && p.requests[0].half():
		if r := p.requests[0]; r.busy && now.Sub(p.startOf(r)) > p.window.target {
			p.window.record(r.got, now.Sub(p.startOf(r))) // slower than was thought
		}
	default:
		return nil
	}
	r := pullRequest{Batch: batchMessages, MaxBytes: p.window.bytes, Expires: pullExpires, Heartbeat: streams.SyncHeartbeat}
	switch {
	case p.large:
		r.Batch, r.MaxBytes = 1, 0
	case p.waiting == 0:
		r.Batch, r.MaxBytes = idleMessages, min(p.window.bytes, firstWindow)
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
		return fmt.Errorf("ask for deliveries: %w", err)
	}
	return nil
}

// half reports whether half of what was asked for has come, or a request that waited for
// news has got some.
func (r *openRequest) half() bool {
	return r.got > 0 && (!r.busy || r.bytes <= r.size/2 || r.messages <= batchMessages/2)
}

// delivered takes over that a delivery has come. Requests are answered in their order while
// the hub has something to deliver.
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

// end takes a request away and tells the window what the line did.
func (p *puller) finish(i int, now time.Time) {
	r := p.requests[i]
	p.requests = append(p.requests[:i], p.requests[i+1:]...)
	took := now.Sub(p.startOf(r))
	p.idleSince = now
	switch {
	case r.got == 0:
	case r.busy:
		p.window.record(r.got, took)
	default:
		p.window.progressed = true
	}
}

// began is when the line was free for what a request asked for.
func (p *puller) startOf(r *openRequest) time.Time {
	if p.idleSince.After(r.asked) {
		return p.idleSince
	}
	return r.asked
}

// status takes over what the hub says about a request: that it waits, or why it ended. An
// error ends the session.
func (p *puller) status(msg *nats.Msg, now time.Time) error {
	code, why := msg.Header.Get("Status"), msg.Header.Get("Description")
	if code == "503" {
		return errors.New("ask for deliveries: the hub has no consumer of this site")
	}
	id, err := strconv.Atoi(msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:])
	if err != nil {
		return fmt.Errorf("message on %s is neither a delivery nor about a request", msg.Subject)
	}
	tooLarge := code == "409" && why == "Message Size Exceeds MaxBytes"
	if code != "408" && !tooLarge && (code != "409" || why != "Batch Completed") {
		return fmt.Errorf("ask for deliveries: the hub says %s %s", code, why)
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
