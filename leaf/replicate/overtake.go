package replicate

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/leaf/desired"
	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/urgent"
	"github.com/petiole-io/petiole/streams/window"
)

const (
	// urgentInterval is how often a site with a backlog asks for what is urgent in it, on a line
	// that carries window.First in a second; on a slower one less often.
	urgentInterval = 2 * time.Second
	// urgentShare is the part of the window that an answer may take, minUrgent its least.
	urgentShare, minUrgent = 4, 1 << 10
	// urgentRefused is how long nobody is asked after the bridge did not answer, or had an error.
	urgentRefused = time.Minute
	// urgentToken ends the subject of the answers.
	urgentToken = ".urgent"
)

// overtaker requests what is urgent in the backlog, see package urgent, and holds what has
// overtaken until it is delivered in its turn.
type overtaker struct {
	publish func(inbox string, body []byte) error
	// inbox is the subject of the answers.
	inbox string
	// position is the sequence up to which the site has everything, after that of the last
	// message that has overtaken.
	position, after uint64
	next            time.Time
	// overtaken maps subjects to messages that are stored, and not delivered in their turn yet.
	overtaken map[string]overtaken
}

type overtaken struct {
	seq uint64
	msg *nats.Msg
}

func newOvertaker(r *Replicator, inbox string, position uint64) *overtaker {
	return &overtaker{
		inbox: inbox + urgentToken, position: position, overtaken: map[string]overtaken{},
		publish: func(inbox string, body []byte) error {
			msg := &nats.Msg{Subject: streams.RequestSubject(r.cfg.Site, urgent.Request), Reply: inbox, Data: body}
			r.cfg.Meter.Up(transfer.KindDesired, msg)
			return r.nc.PublishMsg(msg)
		},
	}
}

// request asks for what is urgent if there is a backlog and it is time for it. perSecond is what
// the line carries in a second.
func (o *overtaker) request(waiting uint64, perSecond int, now time.Time) error {
	if waiting == 0 || now.Before(o.next) {
		return nil
	}
	o.next = now.Add(urgentInterval * time.Duration(max(1, window.First/perSecond)))
	body, err := json.Marshal(urgent.Query{Position: o.position, After: o.after, Bytes: min(urgent.MaxBytes, max(minUrgent, perSecond/urgentShare))})
	if err != nil {
		return fmt.Errorf("encode a request for what is urgent: %w", err)
	}
	if err := o.publish(o.inbox, body); err != nil {
		return fmt.Errorf("request what is urgent: %w", err)
	}
	return nil
}

// answered returns the messages of an answer. Without one, such as from a bridge of an earlier
// version, everything is delivered in its turn.
func (o *overtaker) answered(msg *nats.Msg, now time.Time) []urgent.Message {
	a, err := urgent.DecodeAnswer(msg.Data)
	if msg.Header.Get("Status") != "" || err != nil {
		o.next = now.Add(urgentRefused)
		return nil
	}
	return a.Messages
}

// delivered returns the message to store for a delivery instead of msg: what has overtaken it is
// newer. It returns msg if nothing has.
func (o *overtaker) delivered(d delivery, msg *nats.Msg) *nats.Msg {
	early, ok := o.overtaken[d.Subject]
	if !ok {
		return msg
	}
	if d.stream < early.seq {
		newer := nats.NewMsg(d.Subject)
		newer.Header, newer.Data = desired.WithoutServerHeaders(early.msg.Header), early.msg.Data
		return newer
	}
	delete(o.overtaken, d.Subject)
	return msg
}

// storeUrgent stores messages that have overtaken others. They are not acknowledged, and have the
// position of what was delivered in its turn: a site that loses power now requests everything
// behind it.
func (r *Replicator) storeUrgent(ctx context.Context, identity string, o *overtaker, msgs []urgent.Message) error {
	var out []*nats.Msg
	for _, m := range msgs {
		if m.Seq <= o.position || m.Seq <= o.overtaken[m.Subject].seq {
			continue
		}
		msg, err := m.Msg(r.cfg.Site)
		if err != nil {
			r.cfg.Log.Warn("urgent message not stored, it is delivered in its turn", zap.Error(err))
			continue
		}
		newer, err := r.superseding(ctx, msg)
		if err != nil {
			return err
		}
		if newer != nil {
			continue
		}
		if o.position > 0 {
			msg.Header.Set(streams.HeaderSource, streams.HubPosition{Seq: o.position, Identity: identity}.String())
		}
		o.after = max(o.after, m.Seq)
		o.overtaken[m.Subject] = overtaken{seq: m.Seq, msg: msg}
		out = append(out, msg)
	}
	if len(out) == 0 {
		return nil
	}
	if err := r.put(ctx, out); err != nil {
		return err
	}
	r.cfg.Counters.urgent.Add(float64(len(out)))
	return nil
}
