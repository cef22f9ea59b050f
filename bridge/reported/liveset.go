package reported

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/bridge/lease"
)

// liveSet lists the messages in the stream of a site that are states of objects, as the bridge's
// bucket has it. It is written before a message is removed that may have superseded a state.
//
// nats-server 2.15.2 writes no record of a message that the next one of its subject supersedes
// (docs/upstream.md, 7). When that next one is removed and the server is killed at any later time,
// the superseded message is back: a state that is older than what the API has shown. It would be
// written if its object existed again, as after a restore of etcd. A state that is not in the live
// set, and not newer than it, is one of those.
type liveSet struct {
	// last is the sequence up to which the states are listed, kept their sequences, in order.
	last uint64
	kept []uint64
	// revision is that of the key.
	revision uint64
}

// livePrefix is the prefix of the bucket's keys that hold the live sets.
const livePrefix = "live."

// lacks reports whether a state that the stream has under a sequence had been superseded or
// removed.
func (l liveSet) lacks(seq uint64) bool {
	_, found := slices.BinarySearch(l.kept, seq)
	return seq <= l.last && !found
}

// loadLiveSet reads the live set of a site's stream, which is known by its time of creation. That
// of another stream, or of one that had more messages than this one, counts as none: then every
// state is one that counts.
func loadLiveSet(ctx context.Context, bucket jetstream.KeyValue, site string, created time.Time, last uint64) (liveSet, error) {
	e, err := bucket.Get(ctx, bucketKey(livePrefix, site))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return liveSet{}, nil
	}
	if err != nil {
		return liveSet{}, fmt.Errorf("read the live set of site %s: %w", site, err)
	}
	of, l, ok := decodeLiveSet(e.Value())
	if !ok || of != created.UnixNano() || l.last > last {
		l = liveSet{}
	}
	l.revision = e.Revision()
	return l, nil
}

// encode returns the value of the key: the stream's time of creation in ns since 1970, the last
// sequence, and the distance of each kept one from the one before, as varints.
func (l liveSet) encode(created time.Time) []byte {
	b := binary.AppendVarint(nil, created.UnixNano())
	b = binary.AppendUvarint(b, l.last)
	var before uint64
	for _, seq := range l.kept {
		b = binary.AppendUvarint(b, seq-before)
		before = seq
	}
	return b
}

func decodeLiveSet(b []byte) (created int64, l liveSet, ok bool) {
	created, n := binary.Varint(b)
	if n <= 0 {
		return 0, liveSet{}, false
	}
	b = b[n:]
	if l.last, n = binary.Uvarint(b); n <= 0 {
		return 0, liveSet{}, false
	}
	var before uint64
	for b = b[n:]; len(b) > 0; b = b[n:] {
		distance, size := binary.Uvarint(b)
		if size <= 0 {
			return 0, liveSet{}, false
		}
		n, before = size, before+distance
		l.kept = append(l.kept, before)
	}
	return created, l, true
}

// store writes a set in place of l. It fails if this bridge does not lead, or another one has
// written the key since it was read.
func (l liveSet) store(ctx context.Context, bucket jetstream.KeyValue, fence *lease.Fence, site string, created time.Time, next liveSet) (liveSet, error) {
	var err error
	if next.revision, err = putKey(ctx, bucket, fence, bucketKey(livePrefix, site), next.encode(created), l.revision); err != nil {
		return l, fmt.Errorf("store the live set of site %s: %w", site, err)
	}
	return next, nil
}
