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
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/window"
)

const (
	// pullWindow bounds the bytes of the requests for deliveries that are open, pullTarget the time
	// they should take on a line without delay.
	pullWindow = 1 << 20
	pullTarget = 1500 * time.Millisecond
	// openRequests is how many are open while there is a backlog. A compressed answer arrives as a whole:
	// while one is on the line, the next one has to be at the hub already.
	openRequests = 2
	// minPull is the smallest number of bytes that are requested: with fewer, a line of 9.6 kbit/s waits
	// for the next request more than it carries. With more, pings wait too long behind two requests.
	minPull = 3 << 10
	// partRoom has room for a part of a large object with its headers. A request that almost has is
	// made that large, since a part that does not fit costs a round trip.
	partRoom = streams.PartBytes + 1<<10
	// idleMessages is the number of deliveries that a request asks for while nothing waits. They
	// may arrive at any later time, on a line that has become slower, and are lost when the line
	// is cut.
	idleMessages = 8
	// firstMessages is the number that the first request of a session asks for while something waits: the
	// line is unknown, pings wait behind the answer, and most objects are much smaller than a part.
	firstMessages = 4
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

// requestArrives is how long a request may be on its way to the hub.
const requestArrives = 8 * time.Second

// openRequest is a request that the hub has not finished.
type openRequest struct {
	id    int
	asked time.Time
	// messages and bytes are what may still arrive, got is what has arrived. bytes is 0 if one
	// message of any size may arrive.
	messages, bytes, got int
	alone                bool
	// share is the part of the window that was requested, 1 at most.
	share float64
	// busy is set while the hub, as far as is known, always has the next delivery at hand.
	busy bool
}

// puller requests deliveries from the hub, as many bytes as the line carries in pullTarget, in parts:
// the next request is sent when one has been answered and another is on the line, which is never idle.
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
	// large is set if the next message does not fit into a request.
	large bool
	// tried is set when a request of the session has been answered: until then as much as an unknown
	// line may carry is in flight.
	tried bool
	// idleSince is the time since when the line has had nothing to carry for the oldest request.
	idleSince time.Time
}

// newPullWindow returns the window of the requests on an unknown line.
func newPullWindow() window.Window { return window.New(pullWindow, pullTarget) }

// request sends the next request if it is time for it.
func (p *puller) request(now time.Time) error {
	switch {
	case len(p.requests) == 0:
	case len(p.requests) < openRequests && p.tried && p.waiting > 0 && !p.large && !p.requests[0].alone:
	default:
		return nil
	}
	r := pullRequest{Batch: transfer.BatchMessages, MaxBytes: p.bytes(), Expires: max(pullExpires, 4*p.heartbeat), Heartbeat: p.heartbeat}
	if p.last == 0 {
		r.Expires, r.Heartbeat = firstExpires, firstHeartbeat
	}
	switch {
	case p.large:
		r.Batch, r.MaxBytes = 1, 0
	case p.waiting == 0:
		r.Batch, r.MaxBytes = idleMessages, min(p.bytes(), partRoom)
	case !p.tried:
		r.Batch = firstMessages
	}
	body, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode a request for deliveries: %w", err)
	}
	share := 1.0
	if r.MaxBytes > 0 {
		share = min(share, float64(r.MaxBytes)/float64(p.window.Bytes()))
	}
	p.last++
	p.requests = append(p.requests, &openRequest{
		id: p.last, asked: now, messages: r.Batch, bytes: r.MaxBytes, alone: p.large, busy: p.waiting > 0,
		share: share,
	})
	p.large = false
	if err := p.publish(p.inbox+"."+strconv.Itoa(p.last), body); err != nil {
		return fmt.Errorf("request deliveries: %w", err)
	}
	return nil
}

// overdue reports whether the hub must have all requests by now.
func (p *puller) overdue(now time.Time) bool {
	return len(p.requests) > 0 && now.Sub(p.requests[len(p.requests)-1].asked) > requestArrives
}

// bytes returns how many bytes to request.
func (p *puller) bytes() int {
	n := max(p.window.Bytes()/openRequests, minPull)
	if p.window.Bytes() >= partRoom*3/4 {
		n = max(n, partRoom)
	}
	return n
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
	if r.alone { // the parts of an object come one after the other
		p.large = d.pending > 0 && size > p.bytes()
	}
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
	p.tried = p.tried || r.got > 0
	p.idleSince = now
	switch {
	case r.got == 0:
	case !r.busy:
		p.window.Progressed()
	default: // the window is what all open requests carry together
		p.window.Record(int(float64(r.got)/r.share), time.Duration(float64(took)/r.share))
	}
}

// startOf returns the time since when the line was free for the answers to a request, which begin to
// arrive a round trip after it.
func (p *puller) startOf(r *openRequest) time.Time {
	if arrives := r.asked.Add(p.window.RoundTrip()); arrives.After(p.idleSince) {
		return arrives
	}
	return p.idleSince
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
