package reported

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/bridge/lease"
)

// floor is the sequence up to which all reports of a site are dealt with, as the bridge's bucket
// has it. Only what is below it is removed from the stream: messages that a killed hub brings back
// (docs/decisions/0013-deleted-messages.md) are then below it, too, and are not read as new.
type floor struct {
	seq      uint64
	revision uint64
	// known is true if the bucket has a floor of this stream.
	known bool
}

// floorPrefix is the prefix of the bucket's keys that hold the floors.
const floorPrefix = "reported."

// bucketKey returns the key of a site in the bucket.
func bucketKey(prefix, site string) string { return prefix + hex.EncodeToString([]byte(site)) }

// loadFloor reads the floor of a site's stream, which is known by its time of creation. A floor of
// another stream, or beyond the end of this one, counts as none: it is better to write a report
// again than to lose it.
func loadFloor(ctx context.Context, bucket jetstream.KeyValue, site string, created time.Time, last uint64) (floor, error) {
	e, err := bucket.Get(ctx, bucketKey(floorPrefix, site))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return floor{}, nil
	}
	if err != nil {
		return floor{}, fmt.Errorf("read what is dealt with of site %s: %w", site, err)
	}
	f := floor{revision: e.Revision()}
	var of int64
	var seq uint64
	if n, err := fmt.Sscanf(string(e.Value()), "%d %d", &of, &seq); err == nil && n == 2 && of == created.UnixNano() {
		if f.known = true; seq <= last {
			f.seq = seq
		}
	}
	return f, nil
}

// removeKeys removes the keys of sites that have no stream and no Site.
func removeKeys(ctx context.Context, bucket jetstream.KeyValue, exists func(site string) bool) error {
	keys, err := bucket.ListKeysFiltered(ctx, floorPrefix+"*", livePrefix+"*")
	if err != nil {
		return fmt.Errorf("list the keys of sites: %w", err)
	}
	defer func() { _ = keys.Stop() }() // fails only if the connection has been closed
	for key := range keys.Keys() {
		_, token, _ := strings.Cut(key, ".")
		site, err := hex.DecodeString(token)
		if err == nil && exists(string(site)) {
			continue
		}
		if err := bucket.Purge(ctx, key); err != nil {
			return fmt.Errorf("remove key %s of a deleted site: %w", key, err)
		}
	}
	return nil
}

// store writes a higher floor. It fails if this bridge does not lead, or another one has written
// the key since it was read.
func (f floor) store(ctx context.Context, bucket jetstream.KeyValue, fence *lease.Fence, site string, created time.Time, seq uint64) (floor, error) {
	var err error
	next := floor{seq: seq, known: true}
	value := fmt.Appendf(nil, "%d %d", created.UnixNano(), seq)
	if next.revision, err = putKey(ctx, bucket, fence, bucketKey(floorPrefix, site), value, f.revision); err != nil {
		return f, fmt.Errorf("store what is dealt with of site %s: %w", site, err)
	}
	return next, nil
}

// putKey writes a key whose last known revision is given, 0 for none. It fails if this bridge does
// not lead, or another one has written the key since.
func putKey(ctx context.Context, bucket jetstream.KeyValue, fence *lease.Fence, key string, value []byte, revision uint64) (uint64, error) {
	if err := fence.Check(); err != nil {
		return 0, err
	}
	if revision == 0 {
		return bucket.Create(ctx, key, value)
	}
	return bucket.Update(ctx, key, value, revision)
}

// isConflict reports whether a key was not written because somebody else had written it.
func isConflict(err error) bool {
	return errors.Is(err, jetstream.ErrKeyExists) || isWrongRevision(err)
}
