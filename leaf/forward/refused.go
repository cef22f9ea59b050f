package forward

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
)

// minRefusedWait and maxRefusedWait bound the time after which refused reports are sent again.
// Each try writes them to the gateway's disk.
const (
	minRefusedWait = 2 * time.Second
	maxRefusedWait = time.Minute
)

// refusals is what a forwarder knows about reports for which the hub's stream has no room.
//
// The hub takes a new state of an object that it has, and refuses that of an object more
// (docs/decisions/0019-streams-per-site.md). A refused report is stored again at the end of
// SITE_REPORTED, so that the others do not wait for it, and is sent again when its turn comes.
type refusals struct {
	active atomic.Bool
	// first and last are the sequences of the reports that were refused and stored again since
	// the last try, 0 if there are none. retried is the last one of that try.
	first, last, retried uint64
	// wait is the time before they are sent again; it ends at until.
	wait  time.Duration
	until time.Time
}

// note takes note that a report was refused and stored again as seq. It reports whether that is
// the first one for a while.
func (r *refusals) note(seq uint64, now time.Time) (isNew bool) {
	if r.first == 0 {
		if isNew = !r.active.Swap(true); isNew {
			r.wait = 0
		}
		r.first = seq
		r.wait = min(max(minRefusedWait, 2*r.wait), maxRefusedWait)
	}
	r.last, r.until = seq, now.Add(r.wait)
	return isNew
}

// delay returns how long to wait before seq is sent, because the reports that were refused follow.
func (r *refusals) delay(seq uint64, now time.Time) time.Duration {
	if r.first == 0 || seq < r.first {
		return 0
	}
	return r.until.Sub(now)
}

// retry takes note that the refused reports from seq on are sent again.
func (r *refusals) retry(seq uint64) {
	if r.first != 0 && seq >= r.first {
		r.first, r.retried = 0, r.last
	}
}

// sent takes note that everything up to seq was sent.
func (r *refusals) sent(seq uint64) {
	if r.first == 0 && seq >= r.retried {
		r.active.Store(false)
	}
}

// Refused reports whether the hub has refused reports because its stream has no room for them.
// It does not block.
func (f *Forwarder) Refused() bool { return f.refused.active.Load() }

// awaitRetry waits before refused reports are sent again. seq is the next sequence to send.
func (f *Forwarder) awaitRetry(ctx context.Context, seq uint64) error {
	if d := f.refused.delay(seq, time.Now()); d > 0 {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(d):
		}
	}
	f.refused.retry(seq)
	return nil
}

// commitEach stores reports at the hub one by one, each with its parts, after the hub has refused
// them together because its stream is full: it refuses a batch as a whole. Those that it refuses
// are stored again at the end of the site's stream. Then it acknowledges msgs; out is what is sent
// of each.
func (f *Forwarder) commitEach(ctx context.Context, r *session, out []*nats.Msg, msgs []jetstream.Msg) error {
	stored := 0
	for begin, end := 0, 0; begin < len(out); begin = end {
		object := streams.ObjectSubject(msgs[begin].Subject())
		for end = begin; end < len(out) && streams.ObjectSubject(msgs[end].Subject()) == object; {
			end++
		}
		err := f.hub.Put(ctx, out[begin:end])
		switch {
		case err == nil:
			stored += end - begin
		case streams.IsFull(err):
			if err := refuse(ctx, f, r, object, err); err != nil {
				return err
			}
		default:
			return err
		}
		if err := f.acknowledge(msgs[begin:end]); err != nil {
			return err
		}
	}
	f.committed(r, stored)
	return nil
}

// refuse stores a report that the hub has refused again.
func refuse(ctx context.Context, f *Forwarder, r *session, object string, reason error) error {
	seq, err := f.storeAgain(ctx, r, object)
	if err != nil || seq == 0 {
		return err
	}
	if f.refused.note(seq, time.Now()) {
		f.cfg.Log.Warn("the hub has no room for more reports of this site; they are kept and sent again", zap.String("subject", object), zap.Error(reason))
	}
	f.cfg.Counters.refused.Inc()
	return nil
}

// storeAgain stores the last report about an object again, with its parts, at the end of the
// site's stream, and returns its new sequence, or 0 if nobody needs it any longer. The messages of
// the former one are not sent any more: see isReplaced.
func (f *Forwarder) storeAgain(ctx context.Context, r *session, object string) (uint64, error) {
	last, err := r.stream.GetLastMsgForSubject(ctx, object)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read %s of %s: %w", object, f.cfg.Stream, err)
	}
	opts := []jetstream.PublishOpt{jetstream.WithExpectLastSequencePerSubject(last.Sequence)}
	if ttl, err := time.ParseDuration(last.Header.Get(jetstream.MsgTTLHeader)); err == nil {
		if ttl -= time.Since(last.Time); ttl < time.Second {
			return 0, nil // its time is over
		}
		opts = append(opts, jetstream.WithMsgTTL(ttl))
	}
	seq, err := f.storeCopy(ctx, r, last, opts)
	var api *jetstream.APIError
	switch {
	case errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant):
		return 0, nil // a newer report follows, with parts of its own
	case errors.Is(err, streams.ErrUndecodable):
		f.cfg.Log.Error("a report that should be sent later cannot be read and is lost", zap.String("subject", object), zap.Error(err))
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("store a report again: %w", err)
	}
	r.replaced[object] = last.Sequence
	return seq, nil
}

// storeCopy stores a message of the site's stream again and returns its new sequence.
func (f *Forwarder) storeCopy(ctx context.Context, r *session, last *jetstream.RawStreamMsg, opts []jetstream.PublishOpt) (uint64, error) {
	if last.Header.Get(streams.HeaderParts) != "" {
		_, m, err := streams.Load(ctx, r.stream, last.Subject, last.Header, last.Data)
		if err != nil {
			return 0, err
		}
		return streams.Put(ctx, f.cfg.JS, last.Subject, m, opts...)
	}
	msg := nats.NewMsg(last.Subject)
	msg.Header, msg.Data = withoutInstructions(last.Header), last.Data
	msg.Header.Del(jetstream.MsgTTLHeader)
	ack, err := f.cfg.JS.PublishMsg(ctx, msg, opts...)
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// isReplaced reports whether a message belongs to a report that was stored again since it was
// fetched.
func (r *session) isReplaced(subject string, seq uint64) bool {
	return len(r.replaced) > 0 && seq <= r.replaced[streams.ObjectSubject(subject)]
}
