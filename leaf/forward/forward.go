package forward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/leaf/journal"
	"github.com/petiole-io/petiole/leaf/link"
	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/traffic"
	"github.com/petiole-io/petiole/streams/window"
)

const (
	// A session starts with commits of firstBatch messages and doubles that with each commit, so
	// that a link that is up only briefly makes progress.
	firstBatch = 16
	// commitTarget is how long one commit may take on the line. One is in flight at a time.
	commitTarget = 2 * time.Second
	// saveInterval is the time between two notes on disk of what was forwarded. After a crash, and
	// without an answer of the bridge, as much is sent again.
	saveInterval = 10 * time.Second
	// idleFetch is the default of Config.Idle.
	idleFetch = 30 * time.Second
	// ackWait is longer than a batch may take on a slow link. A session that ends earlier
	// resets the consumer itself.
	ackWait = 5 * time.Minute
)

// Config is what a Forwarder needs.
type Config struct {
	Site string
	// Stream is the stream that it forwards: streams.SiteReported or streams.SiteTelemetry.
	Stream    string
	JS        jetstream.JetStream
	Link      *link.Link
	Timelines *journal.TimelineStore
	Drops     *journal.DropLog
	// MaxPayload returns the size of the largest message that both ends of the link take.
	MaxPayload func() int
	// CorrectTime returns a record that has streams.HeaderClock with the right times, as far as they
	// are known, and the new value of the header, empty for none.
	CorrectTime func(ctx context.Context, data []byte) (corrected []byte, state string, err error)
	// Idle is how long one request for the next message waits, after which dropped records that no
	// message follows are reported; default 30 s. The hub is told of each request's inbox.
	Idle time.Duration
	// Gather is how long a record waits for others while fewer than one commit's wait; default 0.
	// Reports do not wait.
	Gather time.Duration
	// Level returns what is not sent at the moment because of the site's budget; nil: everything is.
	Level func() traffic.Level
	// ThinInterval is the time in which one sample of each device is sent at traffic.SamplesThinned;
	// default traffic.ThinInterval.
	ThinInterval time.Duration
	Meter        *transfer.Meter
	Counters     *Counters
	Log          *zap.Logger
}

// Forwarder sends one stream of the leaf to the hub, in order and at least once. A session starts
// behind the hub's last message of the stream. Use New.
type Forwarder struct {
	cfg Config
	hub transfer.Publisher

	// unansweredSince is when the bridge did not answer a question about the position; position
	// is where the last session ended. Only one session runs at a time.
	unansweredSince time.Time
	position        streams.SitePosition
	// saved is when the log of drops was told last what was forwarded.
	saved time.Time
	// inDoubtSince is when a commit failed that the hub may have stored, or zero.
	inDoubtSince time.Time
	// window is learned from the line of this site.
	window  window.Window
	refused refusals
	// large is the record that is being sent alone.
	large largeRecord
	// thinned is when samples were thinned last.
	thinned time.Time
	// Aside is what the forwarder has set aside.
	Aside Aside
}

// New returns the forwarder of a stream. It starts nothing.
func New(cfg Config) *Forwarder {
	return &Forwarder{
		cfg: cfg, hub: transfer.NewPublisher(cfg.JS.Conn(), streams.HubDomain),
		// Reports and telemetry share the line with the requests for desired state: if both began
		// with as much as the pings allow for one, a line of 9.6 kbit/s would lose its connection.
		window: window.NewShared(transfer.BatchBytes, commitTarget),
	}
}

// session is the state of one session.
type session struct {
	stream   jetstream.Stream
	timeline journal.Timeline
	consumer jetstream.Consumer
	// next is the first sequence that was not sent yet; done is the last one that the hub has,
	// or that was reported to it as dropped.
	next, done uint64
	size       int
	// replaced maps the subject of an object to the last sequence of its report that was stored
	// again.
	replaced map[string]uint64
}

// Run forwards until ctx ends. It holds no messages in memory while the link is down, so that
// newer states replace older ones in the stream.
func (f *Forwarder) Run(ctx context.Context) error {
	if err := f.cfg.createConsumer(ctx); err != nil && ctx.Err() == nil {
		f.cfg.Log.Warn("what waits for the hub cannot be counted until the link is up", zap.Error(err))
	}
	return f.cfg.Link.Sessions(ctx, f.cfg.Log, f.run)
}

// run forwards one session until something fails and returns how many messages the hub stored.
func (f *Forwarder) run(ctx context.Context) (sent int, err error) {
	ctx, end := f.cfg.Timelines.Session(ctx)
	defer func() {
		if errors.Is(context.Cause(ctx), journal.ErrRolledBack) {
			err = journal.ErrRolledBack
		}
		end(nil)
	}()
	r, err := f.open(ctx)
	if err != nil {
		return 0, err
	}
	defer func() {
		f.position = r.timeline.Position(r.done)
		f.logUnsaved(f.cfg.Drops.SetForwarded(f.cfg.Stream, f.position))
	}()
	if err := f.reportDropped(ctx, r); err != nil {
		return 0, err
	}
	for {
		if n, err := awaitBudget(ctx, f, r); err != nil {
			return sent + n, err
		}
		batch, err := f.fetch(ctx, r)
		if err != nil {
			return sent, err
		}
		if len(batch) == 0 {
			if err := f.reportDropped(ctx, r); err != nil {
				return sent, err
			}
			continue
		}
		n, err := f.forward(ctx, r, batch)
		sent += n
		if err != nil {
			return sent, err
		}
		r.size = min(2*r.size, transfer.BatchMessages)
	}
}

// open determines where the session starts and resets the consumer to it.
func (f *Forwarder) open(ctx context.Context) (*session, error) {
	l, err := f.cfg.Timelines.Timeline(ctx)
	if err != nil {
		return nil, err
	}
	s, err := f.cfg.JS.Stream(ctx, f.cfg.Stream)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", f.cfg.Stream, err)
	}
	c, floor, err := f.cfg.openConsumer(ctx, s, l)
	if err != nil {
		return nil, err
	}
	p := resumeState{acked: floor, last: s.CachedInfo().State.LastSeq}
	if p.forwarded, p.exact = l.LastCommon(f.position); !p.exact {
		p.forwarded, _ = f.cfg.Drops.LastForwarded(f.cfg.Stream, l)
	}
	if err := f.hubPosition(ctx, l, &p); err != nil {
		return nil, err
	}
	r := &session{stream: s, timeline: l, consumer: c, next: firstToForward(p), size: firstBatch, replaced: map[string]uint64{}}
	r.done = r.next - 1
	f.logDifference(p, r.next)
	f.window.StartSession(r.done < p.last)
	// What an earlier session fetched and did not acknowledge comes again, too.
	if _, err := s.ResetConsumerToSequence(ctx, streams.ForwardConsumer, r.next); err != nil {
		return nil, fmt.Errorf("reset consumer %s of %s: %w", streams.ForwardConsumer, f.cfg.Stream, err)
	}
	return r, nil
}

// logDifference logs and counts how the hub's position differs from what was acknowledged here.
func (f *Forwarder) logDifference(p resumeState, next uint64) {
	had := p.acked
	if p.exact {
		had = p.forwarded
	}
	switch {
	case next > had+1:
		f.cfg.Log.Info("the hub has more than it acknowledged", zap.Uint64("acknowledged", had), zap.Uint64("next", next))
		f.cfg.Counters.passedOver.WithLabelValues(f.cfg.Stream).Add(float64(next - 1 - had))
	case next <= had && p.exact:
		f.cfg.Log.Warn("the hub has less than it acknowledged; sending again", zap.Uint64("acknowledged", had), zap.Uint64("next", next))
	}
}

// fetch waits for the next message and adds those that are available.
func (f *Forwarder) fetch(ctx context.Context, r *session) ([]jetstream.Msg, error) {
	idle, cancel := context.WithTimeout(ctx, cmp.Or(f.cfg.Idle, idleFetch))
	var polling sync.WaitGroup
	defer polling.Wait()
	defer cancel()
	if f.cfg.Drops.EventsWait(f.cfg.Stream) {
		polling.Go(func() { endWithBudget(idle, f, cancel) })
	}
	first, err := r.consumer.Next(jetstream.FetchContext(idle))
	if err != nil {
		if idle.Err() != nil || errors.Is(err, nats.ErrTimeout) {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("fetch from %s: %w", f.cfg.Stream, err)
	}
	if err := gather(ctx, f, r); err != nil {
		return nil, err
	}
	batch := []jetstream.Msg{first}
	more, err := r.consumer.FetchNoWait(r.size - 1)
	if err != nil {
		return nil, fmt.Errorf("fetch from %s: %w", f.cfg.Stream, err)
	}
	for m := range more.Messages() {
		batch = append(batch, m)
	}
	if err := more.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) {
		return nil, fmt.Errorf("fetch from %s: %w", f.cfg.Stream, err)
	}
	return batch, nil
}

// forward stores the messages at the hub in order, in commits of bounded size, and acknowledges
// each commit. It returns how many messages were dealt with.
func (f *Forwarder) forward(ctx context.Context, r *session, msgs []jetstream.Msg) (sent int, err error) {
	var out []*nats.Msg
	var from []jetstream.Msg // what out is made from
	bytes := 0
	for i, m := range msgs {
		meta, err := m.Metadata()
		if err != nil {
			return sent, fmt.Errorf("read metadata of %s: %w", m.Subject(), err)
		}
		seq := meta.Sequence.Stream
		if seq < r.next {
			return sent, fmt.Errorf("message %d of %s came after %d", seq, f.cfg.Stream, r.next-1)
		}
		if seq > r.next {
			if err := r.checkSkipped(ctx, seq); err != nil {
				return sent, err
			}
		}
		if i == 0 {
			if err := f.awaitRetry(ctx, seq); err != nil {
				return sent, err
			}
		}
		if r.isReplaced(m.Subject(), seq) {
			if err := f.acknowledge(msgs[i : i+1]); err != nil {
				return sent, err
			}
			r.next = seq + 1
			continue
		}
		if eventsWait(f) && streams.IsLocalEvent(m.Subject()) {
			if err := passOver(f, r, msgs[i:i+1], seq); err != nil {
				return sent, err
			}
			r.next = seq + 1
			continue
		}
		gaps, err := f.gaps(ctx, r, seq-1)
		if err != nil {
			return sent, err
		}
		msg, err := encodeRecord(ctx, f, r, &nats.Msg{Subject: m.Subject(), Header: m.Headers(), Data: m.Data()}, seq)
		if err != nil {
			return sent, err
		}
		// A large message is sent alone, so that those before it do not wait for it.
		if len(out) > 0 && bytes+msg.Size() > max(f.window.Bytes(), window.First) {
			if err := f.commit(ctx, r, out, from); err != nil {
				return sent, err
			}
			sent += len(from)
			out, from, bytes = nil, nil, 0
		}
		out, from = append(append(out, gaps...), msg), append(from, m)
		r.next = seq + 1
		if bytes += msg.Size(); bytes < f.window.Bytes() {
			continue
		}
		if err := f.commit(ctx, r, out, from); err != nil {
			return sent, err
		}
		sent += len(from)
		out, from, bytes = nil, nil, 0
	}
	if len(out) > 0 {
		if err := f.commit(ctx, r, out, from); err != nil {
			return sent, err
		}
	}
	return sent + len(from), nil
}

// commit stores out at the hub and then acknowledges the messages that it was made from.
func (f *Forwarder) commit(ctx context.Context, r *session, out []*nats.Msg, msgs []jetstream.Msg) error {
	start, size := time.Now(), 0
	err := f.hub.Put(ctx, out)
	f.large.sent(ctx, out, r.next-1, err)
	if streams.IsFull(err) && f.cfg.Stream == streams.SiteReported {
		return f.commitEach(ctx, r, out, msgs)
	}
	if err != nil {
		if f.inDoubtSince.IsZero() {
			f.inDoubtSince = time.Now()
		}
		return err
	}
	for _, m := range out {
		size += m.Size()
		f.cfg.Meter.Up(kindOf(f.cfg.Stream), m)
	}
	f.window.Record(size, time.Since(start))
	f.inDoubtSince = time.Time{}
	f.committed(r, len(msgs))
	return f.acknowledge(msgs)
}

// committed takes note that everything before the next message is dealt with, and that the hub
// stored a number of messages.
func (f *Forwarder) committed(r *session, stored int) {
	r.done = r.next - 1
	f.refused.sent(r.done)
	f.cfg.Counters.forwarded.WithLabelValues(f.cfg.Stream).Add(float64(stored))
	if time.Since(f.saved) >= saveInterval {
		f.saved = time.Now()
		f.logUnsaved(f.cfg.Drops.SetForwarded(f.cfg.Stream, r.timeline.Position(r.done)))
	}
}

func (f *Forwarder) acknowledge(msgs []jetstream.Msg) error {
	for _, m := range msgs {
		if err := m.Ack(); err != nil {
			return fmt.Errorf("acknowledge %s of %s: %w", m.Subject(), f.cfg.Stream, err)
		}
	}
	return nil
}

// encodeRecord returns the message for the hub, or the gap record that takes its place because it can
// never be sent.
func encodeRecord(ctx context.Context, f *Forwarder, r *session, m *nats.Msg, seq uint64) (*nats.Msg, error) {
	msg, err := f.encode(ctx, r.timeline, m, seq)
	if err != nil || f.cfg.Stream != streams.SiteTelemetry { // reports are stored in parts
		return msg, err
	}
	if reason := f.large.unsendable(msg, seq, f.cfg.MaxPayload()); reason != nil {
		return setAside(ctx, f, r, m, seq, reason)
	}
	return msg, nil
}

// encode returns the message for the hub.
func (f *Forwarder) encode(ctx context.Context, l journal.Timeline, m *nats.Msg, seq uint64) (*nats.Msg, error) {
	subject, err := streams.ForwardSubject(f.cfg.Site, m.Subject)
	if err != nil {
		return nil, err
	}
	msg := nats.NewMsg(subject)
	msg.Header = withoutInstructions(m.Header)
	msg.Header.Set(jetstream.MsgIDHeader, l.MessageID(f.cfg.Site, f.cfg.Stream, seq).String())
	msg.Data = m.Data
	if f.cfg.Stream == streams.SiteTelemetry && msg.Header.Get(streams.HeaderClock) != "" {
		correctTime(ctx, f, msg)
	}
	return msg, nil
}

// correctTime corrects the times of a record. One that is not a record of a device, although it has
// the header of one, goes as it is.
func correctTime(ctx context.Context, f *Forwarder, msg *nats.Msg) {
	data, state, err := f.cfg.CorrectTime(ctx, msg.Data)
	if err != nil {
		f.cfg.Log.Warn("times of a record are not corrected", zap.String("subject", msg.Subject), zap.Error(err))
		return
	}
	msg.Data = data
	if msg.Header.Set(streams.HeaderClock, state); state == "" {
		msg.Header.Del(streams.HeaderClock)
	}
}

// withoutInstructions returns the headers that are not instructions to the stream of the site, and
// how long the message lives.
func withoutInstructions(h nats.Header) nats.Header {
	out := nats.Header{}
	for k, v := range h {
		if !strings.HasPrefix(k, "Nats-") || k == jetstream.MsgTTLHeader {
			out[k] = v
		}
	}
	return out
}

// kindOf returns the kind of the traffic of a stream.
func kindOf(stream string) string {
	if stream == streams.SiteTelemetry {
		return transfer.KindTelemetry
	}
	return transfer.KindReported
}
