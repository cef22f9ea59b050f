package journal

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
)

const (
	// TimelineKey is the key in the metadata of a stream that holds its timeline.
	TimelineKey = "petiole.dev/claims"
	// maxIncarnations bounds a timeline. Older incarnations are of no use once their messages
	// were forwarded.
	maxIncarnations = 32
)

// incarnation is one run of the leaf that wrote to a stream: it assigned the sequences from from
// on. id is about the time of the start, in ns since 1970.
type incarnation struct {
	id   int64
	from uint64
}

// Timeline lists the incarnations that wrote to a stream, oldest first. It is stored with the
// stream, so that a copy of the store, or an older copy that is restored, shares the
// incarnations up to the copy and none after it. The id of a record names its incarnation.
// Therefore two leaves with one identity, or a store that was rolled back, never use one id for
// two records.
type Timeline []incarnation

// parseTimeline reads the timeline of a stream that was created at the given time.
func parseTimeline(s string, created time.Time) (Timeline, error) {
	l := Timeline{{id: created.UnixNano()}}
	if s == "" {
		return l, nil
	}
	for _, part := range strings.Split(s, ",") {
		id, from, _ := strings.Cut(part, ":")
		n, err := strconv.ParseInt(id, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("timeline %q: %w", s, err)
		}
		at, err := strconv.ParseUint(from, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("timeline %q: %w", s, err)
		}
		if at < l[len(l)-1].from {
			return nil, fmt.Errorf("timeline %q is not in order", s)
		}
		l = append(l, incarnation{n, at})
	}
	return l, nil
}

// String omits the first incarnation, which is the creation of the stream.
func (l Timeline) String() string {
	var b strings.Builder
	for i, c := range l[1:] {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d:%d", c.id, c.from)
	}
	return b.String()
}

// Incarnations returns the ids of all incarnations.
func (l Timeline) Incarnations() []int64 {
	ids := make([]int64, len(l))
	for i, c := range l {
		ids[i] = c.id
	}
	return ids
}

// Created returns when the stream was created, in ns since 1970.
func (l Timeline) Created() int64 { return l[0].id }

// with returns the timeline with one more incarnation. If that makes too many, the second is
// merged into its successor.
func (l Timeline) with(c incarnation) Timeline {
	out := append(Timeline{}, l...)
	if len(out) >= maxIncarnations {
		out[2].from = out[1].from
		out = append(out[:1], out[2:]...)
	}
	return append(out, c)
}

// Position returns the position of a sequence.
func (l Timeline) Position(seq uint64) streams.SitePosition {
	owner := l[0]
	for _, c := range l {
		if c.from <= seq {
			owner = c
		}
	}
	return streams.SitePosition{Incarnation: owner.id, Seq: seq}
}

// MessageID returns the message id of a sequence.
func (l Timeline) MessageID(site, stream string, seq uint64) streams.ForwardID {
	return streams.ForwardID{Site: site, Stream: stream, SitePosition: l.Position(seq)}
}

// Locate returns the sequence up to which the hub has this stream, given the id of the last
// message that the hub has of it. It returns false if the id belongs to another stream or to
// another copy of it.
func (l Timeline) Locate(stream string, id streams.ForwardID) (uint64, bool) {
	if id.Stream != stream {
		return 0, false
	}
	return l.LastCommon(id.SitePosition)
}

// LastCommon returns the last sequence up to a position that this stream shares with the stream
// of the position. It returns false if they share none.
func (l Timeline) LastCommon(at streams.SitePosition) (uint64, bool) {
	for i, c := range l {
		if c.id != at.Incarnation {
			continue
		}
		if i+1 < len(l) && at.Seq >= l[i+1].from {
			// What came after was stored by a copy that no longer exists, or by another leaf.
			return max(l[i+1].from, 1) - 1, true
		}
		return at.Seq, true
	}
	return 0, false
}

// newIncarnation returns an incarnation with an id that is unique among the copies of a store,
// even if the clock stands still.
func newIncarnation(from uint64) (incarnation, error) {
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return incarnation{}, fmt.Errorf("create an incarnation id: %w", err)
	}
	const spread = 1 << 30 // about a second
	return incarnation{id: time.Now().UnixNano() - int64(binary.BigEndian.Uint32(b[:])%spread), from: from}, nil
}

// TimelineStore adds this start of the leaf to the timeline of a stream that is forwarded. Use
// NewTimelineStore. It is safe for concurrent use.
type TimelineStore struct {
	js     jetstream.JetStream
	stream string

	mu      sync.Mutex
	started bool
	// from is the first sequence of the next incarnation, or 0 for the one behind the end of the
	// stream.
	from uint64
	// end ends the session that forwards the stream.
	end context.CancelCauseFunc
}

// NewTimelineStore returns the store of a stream's timeline. It does no I/O.
func NewTimelineStore(js jetstream.JetStream, stream string) *TimelineStore {
	return &TimelineStore{js: js, stream: stream}
}

// Timeline returns the timeline of the stream, after the incarnation of this start was stored
// with it.
func (c *TimelineStore) Timeline(ctx context.Context) (Timeline, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.js.Stream(ctx, c.stream)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", c.stream, err)
	}
	info := s.CachedInfo()
	l, err := parseTimeline(info.Config.Metadata[TimelineKey], info.Created)
	if err == nil && c.started && len(l) > 1 {
		return l, nil
	}
	if err != nil {
		// Somebody else wrote it: the incarnations are not known.
		l = Timeline{{id: info.Created.UnixNano()}}
	}
	from := info.State.LastSeq + 1
	if c.from > 0 {
		from = min(from, max(c.from, l[len(l)-1].from))
	}
	mine, err := newIncarnation(from)
	if err != nil {
		return nil, err
	}
	l = l.with(mine)
	cfg := info.Config
	cfg.Metadata = maps.Clone(cfg.Metadata)
	if cfg.Metadata == nil {
		cfg.Metadata = map[string]string{}
	}
	cfg.Metadata[TimelineKey] = l.String()
	if _, err := c.js.UpdateStream(ctx, cfg); err != nil {
		return nil, fmt.Errorf("store the timeline of %s: %w", c.stream, err)
	}
	c.started, c.from = true, 0
	return l, nil
}

// ErrRolledBack ends a session because new messages of the stream get ids of another
// incarnation.
var ErrRolledBack = errors.New("the stream was rolled back")

// StartNew ends the session and makes the next call of Timeline store a new incarnation, which
// begins behind end: the stream was found to be rolled back to there.
func (c *TimelineStore) StartNew(end uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.started, c.from = false, end+1
	if c.end != nil {
		c.end(ErrRolledBack)
	}
}

// Session returns a context for a session that forwards the stream, one at a time. It ends when
// a new incarnation starts.
func (c *TimelineStore) Session(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, c.end = context.WithCancelCause(ctx)
	return ctx, c.end
}
