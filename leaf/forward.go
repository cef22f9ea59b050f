package leaf

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/leaf/journal"
	"github.com/petiole-io/petiole/leaf/link"
	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams"
)

const (
	// A session starts with commits of firstBatch messages and doubles that with each commit, so
	// that a link that is up only briefly makes progress.
	firstBatch = 16
	// commitTarget is how long one commit may take on the line. One is in flight at a time.
	commitTarget = 2 * time.Second
	// idleFetch is how long one request for the next message waits.
	idleFetch = 30 * time.Second
	// forwardAckWait is longer than a batch may take on a slow link. A session that ends earlier
	// resets the consumer itself.
	forwardAckWait = 5 * time.Minute
)

// forwarder sends one stream of the leaf to the hub, in order and at least once. It acknowledges
// a message locally only after the hub's JetStream has confirmed that it stored it. A session
// starts behind the hub's last message of the stream. Records that a limit dropped before are
// counted, and reported in their place.
type forwarder struct {
	site      string
	stream    string
	js        jetstream.JetStream
	hub       transfer.Publisher
	link      *link.Link
	timelines *journal.TimelineStore
	drops     *journal.DropLog
	counts    *counts
	log       *zap.Logger

	// unansweredSince is when the bridge did not answer a question about the position; position
	// is where the last session ended. Only one session runs at a time.
	unansweredSince time.Time
	position        journal.Position
	// inDoubtSince is when a commit failed that the hub may have stored, or zero.
	inDoubtSince time.Time
	// window is learned from the line of this site.
	window transfer.Window
}

// forwardSession is the state of one session.
type forwardSession struct {
	stream   jetstream.Stream
	timeline journal.Timeline
	consumer jetstream.Consumer
	// next is the first sequence that was not sent yet; done is the last one that the hub has,
	// or that was reported to it as dropped.
	next, done uint64
	size       int
}

// newForwardWindow returns the window of the commits on an unknown line.
func newForwardWindow() transfer.Window { return transfer.NewWindow(transfer.BatchBytes, commitTarget) }

// Run forwards until ctx ends. It holds no messages in memory while the link is down, so that
// newer states replace older ones in the stream.
func (f *forwarder) Run(ctx context.Context) error {
	return f.link.Sessions(ctx, f.log, f.session)
}

// session forwards until something fails and returns how many messages the hub stored.
func (f *forwarder) session(ctx context.Context) (sent int, err error) {
	ctx, end := f.timelines.Session(ctx)
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
		f.logUnsaved(f.drops.SetForwarded(f.stream, f.position))
	}()
	if err := f.reportDropped(ctx, r); err != nil {
		return 0, err
	}
	for {
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
func (f *forwarder) open(ctx context.Context) (*forwardSession, error) {
	l, err := f.timelines.Timeline(ctx)
	if err != nil {
		return nil, err
	}
	s, err := f.js.Stream(ctx, f.stream)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", f.stream, err)
	}
	cfg := streams.LocalConsumer(streams.ForwardConsumer, "what the hub has stored", 2*transfer.BatchMessages)
	cfg.AckWait = forwardAckWait
	c, err := s.CreateOrUpdateConsumer(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open consumer %s of %s: %w", streams.ForwardConsumer, f.stream, err)
	}
	p := resumeState{acked: c.CachedInfo().AckFloor.Stream, last: s.CachedInfo().State.LastSeq}
	if p.forwarded, p.exact = l.LastCommon(f.position); !p.exact {
		p.forwarded, _ = l.LastCommon(f.drops.Forwarded(f.stream))
	}
	if p.hub, p.known, err = f.hubPosition(ctx, l, p.last); err != nil {
		return nil, err
	}
	r := &forwardSession{stream: s, timeline: l, consumer: c, next: firstToForward(p), size: firstBatch}
	r.done = r.next - 1
	f.logDifference(p, r.next)
	f.window.StartSession(r.done < p.last)
	// What an earlier session fetched and did not acknowledge comes again, too.
	if _, err := s.ResetConsumerToSequence(ctx, streams.ForwardConsumer, r.next); err != nil {
		return nil, fmt.Errorf("reset consumer %s of %s: %w", streams.ForwardConsumer, f.stream, err)
	}
	return r, nil
}

// logDifference logs and counts how the hub's position differs from what was acknowledged here.
func (f *forwarder) logDifference(p resumeState, next uint64) {
	had := p.acked
	if p.exact {
		had = p.forwarded
	}
	switch {
	case next > had+1:
		f.log.Info("the hub has more than it acknowledged", zap.Uint64("acknowledged", had), zap.Uint64("next", next))
		f.counts.passedOver.WithLabelValues(f.stream).Add(float64(next - 1 - had))
	case next <= had && p.exact:
		f.log.Warn("the hub has less than it acknowledged; sending again", zap.Uint64("acknowledged", had), zap.Uint64("next", next))
	}
}

// fetch waits for the next message and adds those that are available.
func (f *forwarder) fetch(ctx context.Context, r *forwardSession) ([]jetstream.Msg, error) {
	idle, cancel := context.WithTimeout(ctx, idleFetch)
	defer cancel()
	first, err := r.consumer.Next(jetstream.FetchContext(idle))
	if idle.Err() != nil || errors.Is(err, nats.ErrTimeout) {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("fetch from %s: %w", f.stream, err)
	}
	batch := []jetstream.Msg{first}
	more, err := r.consumer.FetchNoWait(r.size - 1)
	if err != nil {
		return nil, fmt.Errorf("fetch from %s: %w", f.stream, err)
	}
	for m := range more.Messages() {
		batch = append(batch, m)
	}
	if err := more.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) {
		return nil, fmt.Errorf("fetch from %s: %w", f.stream, err)
	}
	return batch, nil
}

// forward stores the messages at the hub in order, in commits of bounded size, and acknowledges
// each commit. It returns how many messages the hub stored.
func (f *forwarder) forward(ctx context.Context, r *forwardSession, msgs []jetstream.Msg) (sent int, err error) {
	var out []*nats.Msg
	begin, bytes := 0, 0
	for i, m := range msgs {
		meta, err := m.Metadata()
		if err != nil {
			return sent, fmt.Errorf("read metadata of %s: %w", m.Subject(), err)
		}
		seq := meta.Sequence.Stream
		if seq < r.next {
			return sent, fmt.Errorf("message %d of %s came after %d", seq, f.stream, r.next-1)
		}
		gaps, err := f.gaps(ctx, r, seq-1)
		if err != nil {
			return sent, err
		}
		msg, err := f.encode(r.timeline, m, seq)
		if err != nil {
			return sent, err
		}
		out = append(append(out, gaps...), msg)
		r.next = seq + 1
		if bytes += msg.Size(); bytes < f.window.Bytes() && i < len(msgs)-1 {
			continue
		}
		if err := f.commit(ctx, r, out, msgs[begin:i+1]); err != nil {
			return sent, err
		}
		sent += i + 1 - begin
		out, begin, bytes = nil, i+1, 0
	}
	return sent, nil
}

// commit stores out at the hub and then acknowledges the messages that it was made from.
func (f *forwarder) commit(ctx context.Context, r *forwardSession, out []*nats.Msg, msgs []jetstream.Msg) error {
	start, size := time.Now(), 0
	if err := f.hub.Put(ctx, out); err != nil {
		if f.inDoubtSince.IsZero() {
			f.inDoubtSince = time.Now()
		}
		return err
	}
	for _, m := range out {
		size += m.Size()
	}
	f.window.Record(size, time.Since(start))
	f.inDoubtSince = time.Time{}
	r.done = r.next - 1
	f.counts.forwarded.WithLabelValues(f.stream).Add(float64(len(msgs)))
	for _, m := range msgs {
		if err := m.Ack(); err != nil {
			return fmt.Errorf("acknowledge %s of %s: %w", m.Subject(), f.stream, err)
		}
	}
	return nil
}

// gaps returns the records about the sequences from the next one up to before that were not
// delivered. In a stream of states they were superseded, and there are none.
func (f *forwarder) gaps(ctx context.Context, r *forwardSession, before uint64) ([]*nats.Msg, error) {
	if f.stream != streams.SiteTelemetry || before < r.next {
		return nil, nil
	}
	info, err := r.stream.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.stream, err)
	}
	var out []*nats.Msg
	found := missing(r.next, before, info.State.FirstSeq)
	for _, reason := range []string{streams.GapLimit, streams.GapLost} {
		s, ok := found[reason]
		if !ok {
			continue
		}
		f.log.Warn("records were dropped before the hub had them", zap.Uint64("from", s.From), zap.Uint64("to", s.To), zap.String("reason", reason))
		f.logUnsaved(f.drops.CountDropped(f.stream, r.timeline, reason, s))
		msg, err := gapMessage(f.site, f.stream, r.timeline, s, reason)
		if err != nil {
			return nil, err
		}
		out = append(out, msg)
	}
	return out, nil
}

// reportDropped reports dropped records that no remaining message follows.
func (f *forwarder) reportDropped(ctx context.Context, r *forwardSession) error {
	info, err := r.stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("read %s: %w", f.stream, err)
	}
	if info.State.Msgs > 0 {
		return nil
	}
	out, err := f.gaps(ctx, r, info.State.LastSeq)
	if err != nil || len(out) == 0 {
		return err
	}
	if err := f.hub.Put(ctx, out); err != nil {
		return err
	}
	r.done = info.State.LastSeq
	r.next = r.done + 1
	return nil
}

// logUnsaved logs that the counts of dropped records could not be saved. They are kept in memory
// and saved with the next change; forwarding continues.
func (f *forwarder) logUnsaved(err error) {
	if err != nil {
		f.log.Warn("counts of dropped records not saved, kept in memory", zap.Error(err))
	}
}

// encode returns the message for the hub.
func (f *forwarder) encode(l journal.Timeline, m jetstream.Msg, seq uint64) (*nats.Msg, error) {
	subject, err := streams.ForwardSubject(f.site, m.Subject())
	if err != nil {
		return nil, err
	}
	msg := nats.NewMsg(subject)
	for k, v := range m.Headers() {
		if !strings.HasPrefix(k, "Nats-") || k == jetstream.MsgTTLHeader { // instructions to the local stream
			msg.Header[k] = v
		}
	}
	msg.Header.Set(jetstream.MsgIDHeader, l.MessageID(f.site, f.stream, seq).String())
	msg.Data = m.Data()
	return msg, nil
}
