package forward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/leaf/journal"
	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/traffic"
)

// budgetPoll is how often it is looked whether the budget allows more.
const budgetPoll = time.Second

// awaitBudget returns when the site's budget allows to send the next messages of the stream. It returns
// how many samples it has sent in the meantime.
//
// Reports wait in their stream, where newer states replace older ones; Events wait earlier than status
// (passOver). Records cannot all wait: a
// result of a command comes after samples. So at the first level the newest sample of each device is
// sent in each traffic.ThinInterval, at the others when a record follows that is no sample.
func awaitBudget(ctx context.Context, f *Forwarder, r *session) (sent int, err error) {
	if f.cfg.Level == nil {
		return 0, nil
	}
	for {
		level := f.cfg.Level()
		if f.cfg.Stream == streams.SiteReported && level != traffic.ReportsWait {
			return sent, storeEventsAgain(ctx, f, r)
		}
		if level == traffic.Within {
			return sent, nil
		}
		if f.cfg.Stream == streams.SiteTelemetry {
			due := level == traffic.SamplesThinned && time.Since(f.thinned) >= cmp.Or(f.cfg.ThinInterval, traffic.ThinInterval)
			if !due {
				if due, err = r.otherWaits(ctx); err != nil {
					return sent, err
				}
			}
			if due {
				n, err := thin(ctx, f, r)
				if sent += n; err != nil {
					return sent, err
				}
			}
		}
		select {
		case <-ctx.Done():
			return sent, context.Cause(ctx)
		case <-time.After(budgetPoll):
		}
	}
}

// otherWaits reports whether a record waits that is no sample, of the kinds that the leaf makes.
func (r *session) otherWaits(ctx context.Context) (bool, error) {
	for _, kind := range []string{"audit", streams.GapKind} {
		_, err := r.stream.GetMsg(ctx, r.next, jetstream.WithGetMsgSubject(streams.LocalTelemetryFilter(kind)))
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, jetstream.ErrMsgNotFound) {
			return false, fmt.Errorf("look for records in %s: %w", streams.SiteTelemetry, err)
		}
	}
	return false, nil
}

// thin sends what waits, and of the samples the newest one of each device. Gap records take the place of
// the others, which stay in the site's stream. Then it acknowledges all of it.
func thin(ctx context.Context, f *Forwarder, r *session) (sent int, err error) {
	info, err := r.stream.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", f.cfg.Stream, err)
	}
	if info.State.LastSeq < r.next {
		return 0, nil
	}
	f.thinned = time.Now()
	keep, last, err := r.newest(ctx)
	if err != nil {
		return 0, err
	}
	thinned := uint64(0)
	var out []*nats.Msg
	for i, seq := range append(keep, last+1) {
		if gaps, err := thinnedGaps(ctx, f, r, seq-1); err != nil {
			return sent, err
		} else if out = append(out, gaps...); seq > r.next {
			thinned += seq - r.next
		}
		r.next = seq
		if i < len(keep) {
			m, err := r.stream.GetMsg(ctx, seq)
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				continue // a limit has removed it: the next gap has it
			}
			if err != nil {
				return sent, fmt.Errorf("read %d of %s: %w", seq, f.cfg.Stream, err)
			}
			msg, err := encodeRecord(ctx, f, r, &nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data}, seq)
			if err != nil {
				return sent, err
			}
			out, r.next = append(out, msg), seq+1
		}
		if len(out) < transfer.BatchMessages-2 && size(out) < f.window.Bytes() && i < len(keep) {
			continue
		}
		if len(out) > 0 {
			if err := f.commit(ctx, r, out, nil); err != nil {
				return sent, err
			}
		}
		f.cfg.Counters.forwarded.WithLabelValues(f.cfg.Stream).Add(float64(len(out)))
		sent, out = sent+len(out), nil
	}
	// The hub has it: from here on the stream is delivered behind it.
	if _, err := r.stream.ResetConsumerToSequence(ctx, streams.ForwardConsumer, r.next); err != nil {
		return sent, fmt.Errorf("reset consumer %s of %s: %w", streams.ForwardConsumer, f.cfg.Stream, err)
	}
	f.cfg.Counters.thinned.Add(float64(thinned))
	f.cfg.Log.Info("samples stay at the site because of its budget", zap.Uint64("samples", thinned), zap.Int("sent", len(keep)), zap.Uint64("up_to", last))
	return sent, nil
}

func size(msgs []*nats.Msg) (n int) {
	for _, m := range msgs {
		n += m.Size()
	}
	return n
}

// newest returns the sequences of the records that wait and are sent in any case, in order: the last
// sample of each device, and all others. last is the last record that they were chosen from.
func (r *session) newest(ctx context.Context) (keep []uint64, last uint64, err error) {
	info, err := r.stream.Info(ctx, jetstream.WithSubjectFilter(streams.LocalTelemetryFilter("")))
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", streams.SiteTelemetry, err)
	}
	last = info.State.LastSeq
	sample := strings.TrimSuffix(streams.LocalTelemetryFilter(streams.SampleKind), ">")
	for subject := range info.State.Subjects {
		if !strings.HasPrefix(subject, sample) {
			for next := r.next; next <= last; {
				m, err := r.stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(subject))
				if errors.Is(err, jetstream.ErrMsgNotFound) {
					break
				}
				if err != nil {
					return nil, 0, fmt.Errorf("read %s of %s: %w", subject, streams.SiteTelemetry, err)
				}
				if m.Sequence <= last {
					keep = append(keep, m.Sequence)
				}
				next = m.Sequence + 1
			}
			continue
		}
		m, err := r.stream.GetLastMsgForSubject(ctx, subject)
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
		case err != nil:
			return nil, 0, fmt.Errorf("read %s of %s: %w", subject, streams.SiteTelemetry, err)
		case m.Sequence >= r.next && m.Sequence <= last: // a later one is sent the next time
			keep = append(keep, m.Sequence)
		}
	}
	slices.Sort(keep)
	return keep, last, nil
}

// thinnedGaps returns the records that take the place of the sequences from the next one up to before:
// those that a limit has removed, and those that the budget does not allow.
func thinnedGaps(ctx context.Context, f *Forwarder, r *session, before uint64) ([]*nats.Msg, error) {
	if before < r.next {
		return nil, nil
	}
	info, err := r.stream.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.cfg.Stream, err)
	}
	var out []*nats.Msg
	if first := info.State.FirstSeq; first > r.next {
		removed := min(before, first-1)
		if out, err = f.gaps(ctx, r, removed); err != nil {
			return nil, err
		}
		r.next = removed + 1
	}
	if before < r.next {
		return out, nil
	}
	msg, err := gapMessage(f.cfg.Site, f.cfg.Stream, r.timeline, journal.Range{From: r.next, To: before}, streams.GapBudget)
	return append(out, msg), err
}
