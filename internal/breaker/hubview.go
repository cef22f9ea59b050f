package breaker

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/internal/breaker/check"
	"github.com/petiole-io/petiole/streams"
)

// hubView reads the hub's streams.
type hubView struct {
	js     jetstream.JetStream
	record *recorder
	// former is set in a run with two versions. What the former one does not know it takes for
	// deleted, with a version above that of the object; such resources are not judged then.
	former bool
}

// run reads a stream until ctx ends.
func (h *hubView) run(ctx context.Context, stream string, take func(stream string, m jetstream.Msg, md *jetstream.MsgMetadata)) {
	at := uint64(0)
	identity := ""
	for sleep(ctx, 300*time.Millisecond) {
		look, cancel := context.WithTimeout(ctx, 5*time.Second)
		s, err := h.js.Stream(look, stream)
		cancel()
		if err != nil {
			continue // away, or not created yet
		}
		if created := strconv.FormatInt(s.CachedInfo().Created.UnixNano(), 10); created != identity {
			identity, at = created, 0
		}
		at = h.follow(ctx, s, identity, at, take)
	}
}

// follow reads from behind a sequence until it fails, and returns the last one read.
func (h *hubView) follow(ctx context.Context, s jetstream.Stream, identity string, at uint64, take func(string, jetstream.Msg, *jetstream.MsgMetadata)) uint64 {
	c, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: at + 1, InactiveThreshold: 30 * time.Second, MaxResetAttempts: 1,
	})
	if err != nil {
		return at
	}
	msgs, err := c.Messages(jetstream.PullMaxMessages(200), jetstream.PullHeartbeat(2*time.Second), jetstream.PullExpiry(10*time.Second))
	if err != nil {
		return at
	}
	defer msgs.Stop()
	for {
		wait, cancel := context.WithTimeout(ctx, 5*time.Second)
		m, err := msgs.Next(jetstream.NextContext(wait))
		idle := errors.Is(wait.Err(), context.DeadlineExceeded)
		cancel()
		if err != nil {
			if idle && ctx.Err() == nil && h.isSameStream(ctx, s, identity) {
				continue
			}
			return at
		}
		md, err := m.Metadata()
		if err != nil {
			return at
		}
		if md.Sequence.Stream <= at {
			continue
		}
		at = md.Sequence.Stream
		take(identity, m, md)
	}
}

// isSameStream reports whether the stream is still the one that is read.
func (h *hubView) isSameStream(ctx context.Context, s jetstream.Stream, identity string) bool {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	info, err := s.Info(ctx)
	return err == nil && strconv.FormatInt(info.Created.UnixNano(), 10) == identity
}

// telemetry records a message of a site's telemetry.
func (h *hubView) telemetry(_ string, m jetstream.Msg, _ *jetstream.MsgMetadata) {
	t := strings.Split(m.Subject(), ".")
	if len(t) < 4 {
		return
	}
	switch t[2] {
	case recordKind:
		var r telemetryRecord
		if err := json.Unmarshal(m.Data(), &r); err != nil {
			h.record.printf("record on %s cannot be read: %v", m.Subject(), err)
			return
		}
		h.record.add(check.Event{Kind: check.Arrived, Site: t[1], Source: t[3], N: r.N})
	case streams.GapKind:
		var g streams.Gap
		if err := json.Unmarshal(m.Data(), &g); err != nil {
			h.record.printf("gap record on %s cannot be read: %v", m.Subject(), err)
			return
		}
		h.record.add(check.Event{Kind: check.GapReported, Site: t[1], Stream: g.Stream, From: g.From, To: g.To, What: g.Reason})
	}
}

// desired records a message of DESIRED.
func (h *hubView) desired(stream string, m jetstream.Msg, md *jetstream.MsgMetadata) {
	site, ref, err := streams.ParseDesired(m.Subject())
	if err != nil || streams.IsPart(m.Subject()) || strings.HasPrefix(ref.Name, poisonPrefix) {
		return
	}
	if h.former && !isOneOf(comparedWithFormer, ref) {
		return
	}
	g := m.Headers()
	h.record.add(check.Event{
		Kind: check.Published, Site: site, Subject: m.Subject(), Op: g.Get(streams.HeaderOp), UID: g.Get(streams.HeaderUID),
		Version: g.Get(streams.HeaderVersion), Epoch: g.Get(streams.HeaderEpoch), Term: int64(streams.TermOf(g)), Seq: md.Sequence.Stream, Stream: stream,
	})
}
