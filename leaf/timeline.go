package leaf

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
	// claimsKey is the key of a stream's metadata that holds its lineage.
	timelineKey = "petiole.dev/claims"
	// maxClaims bounds a lineage: what is older is of no use once it was forwarded.
	maxIncarnations = 32
)

// claim is a start of the leaf: what a stream stored from sequence From on is its. ID
// is about the time of the start, ns since 1970.
type incarnation struct {
	id   int64
	from uint64
}

// lineage are the claims on a stream, oldest first. It is stored with the stream, so
// that a copy of the store, or an older copy that is put back, shares the claims up to
// the moment of the copy and none after it. A record's id names its claim: two leaves
// with one identity, or a store that was rolled back, never give one id to two records.
type timeline []incarnation

// parseLineage reads the metadata of a stream that was made at created.
func parseTimeline(s string, created time.Time) (timeline, error) {
	l := timeline{{id: created.UnixNano()}}
	if s == "" {
		return l, nil
	}
	for _, part := range strings.Split(s, ",") {
		id, from, _ := strings.Cut(part, ":")
		n, err := strconv.ParseInt(id, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("lineage %q: %w", s, err)
		}
		at, err := strconv.ParseUint(from, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("lineage %q: %w", s, err)
		}
		if at < l[len(l)-1].from {
			return nil, fmt.Errorf("lineage %q is not in order", s)
		}
		l = append(l, incarnation{n, at})
	}
	return l, nil
}

// String leaves out the first claim, which is the stream's creation.
func (l timeline) String() string {
	var b strings.Builder
	for i, c := range l[1:] {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d:%d", c.id, c.from)
	}
	return b.String()
}

// with is the lineage with one more claim, from a sequence on. When they are too many,
// the oldest but the first goes, and what it had becomes its successor's.
func (l timeline) with(c incarnation) timeline {
	out := append(timeline{}, l...)
	if len(out) >= maxIncarnations {
		out[2].from = out[1].from
		out = append(out[:1], out[2:]...)
	}
	return append(out, c)
}

// spot is the place of a sequence.
func (l timeline) position(seq uint64) position {
	owner := l[0]
	for _, c := range l {
		if c.from <= seq {
			owner = c
		}
	}
	return position{owner.id, seq}
}

// id is the message id of a sequence.
func (l timeline) messageID(site, stream string, seq uint64) streams.ForwardID {
	return streams.ForwardID{Site: site, Stream: stream, Created: time.Unix(0, l.position(seq).Incarnation), Seq: seq}
}

// locate is up to which sequence this stream is at the hub when the hub's last message
// of it has that id. false: the id is of another stream's, or of another copy's, life.
func (l timeline) locate(stream string, id streams.ForwardID) (uint64, bool) {
	if id.Stream != stream {
		return 0, false
	}
	return l.lastCommon(position{id.Created.UnixNano(), id.Seq})
}

// find is the last sequence up to a place that this stream has in common with the one
// that the place is of, false when they have none.
func (l timeline) lastCommon(at position) (uint64, bool) {
	for i, c := range l {
		if c.id != at.Incarnation {
			continue
		}
		if i+1 < len(l) && at.Seq >= l[i+1].from {
			// What came after was stored by a copy that is no more, or that is another's.
			return max(l[i+1].from, 1) - 1, true
		}
		return at.Seq, true
	}
	return 0, false
}

// newClaim is unique among the copies of a store, also where the clock stands still.
func newIncarnation(from uint64) (incarnation, error) {
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return incarnation{}, fmt.Errorf("make a claim: %w", err)
	}
	const spread = 1 << 30 // about a second
	return incarnation{id: time.Now().UnixNano() - int64(binary.BigEndian.Uint32(b[:])%spread), from: from}, nil
}

// claimer gives a stream that is forwarded a claim of this start of the leaf.
type timelineStore struct {
	js     jetstream.JetStream
	stream string

	mu      sync.Mutex
	started bool
	// from is what the next claim begins with, 0: behind the stream's end.
	from uint64
	// end ends the session that forwards the stream.
	end context.CancelCauseFunc
}

// lineage returns the stream's lineage, after this start's claim was stored with it.
func (c *timelineStore) timeline(ctx context.Context) (timeline, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.js.Stream(ctx, c.stream)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", c.stream, err)
	}
	info := s.CachedInfo()
	l, err := parseTimeline(info.Config.Metadata[timelineKey], info.Created)
	if err == nil && c.started && len(l) > 1 {
		return l, nil
	}
	if err != nil {
		// Not of our making: what was claimed is not known.
		l = timeline{{id: info.Created.UnixNano()}}
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
	cfg.Metadata[timelineKey] = l.String()
	if _, err := c.js.UpdateStream(ctx, cfg); err != nil {
		return nil, fmt.Errorf("claim %s: %w", c.stream, err)
	}
	c.started, c.from = true, 0
	return l, nil
}

// errRolledBack ends a session: what the stream stores now has ids of another claim.
var errRolledBack = errors.New("the stream was rolled back")

// again makes the next call of lineage store a new claim, on what is behind end: the
// stream was found to have been rolled back to there. It ends the session.
func (c *timelineStore) startNew(end uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.started, c.from = false, end+1
	if c.end != nil {
		c.end(errRolledBack)
	}
}

// session returns a context for a session that forwards the stream, one at a time, which
// lasts as long as the claim.
func (c *timelineStore) session(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, c.end = context.WithCancelCause(ctx)
	return ctx, c.end
}
