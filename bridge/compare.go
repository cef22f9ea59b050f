package bridge

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/order"
)

const (
	// maxEntryField bounds the UID, version, epoch and hash that a site can claim for an
	// object, in bytes: they are copied into tombstones.
	maxEntryField = 128
	// maxEpoch and maxVersion bound the numbers in those fields, so that adding one cannot
	// overflow.
	maxEpoch, maxVersion = 1 << 62, 1 << 63
)

// expectedState is the state that the bridge compares a site's inventory with.
type expectedState struct {
	epoch uint64
	// last is the position of the last message that DESIRED holds for the site.
	last streams.HubPosition
	// idle is true if nothing is being published, or waits to be, for the site.
	idle      bool
	inventory *streams.Inventory
	// entriesIn returns the entries in the given buckets, by subject.
	entriesIn func(buckets map[int]bool) map[string]streams.InventoryEntry
}

// difference is the result of a comparison: the entries that are missing at the site or differ
// there, and the extra ones that it should not have.
type difference struct{ missing, extra []streams.InventoryEntry }

func (d difference) size() int { return len(d.missing) + len(d.extra) }

// errQuery marks a query that does not follow the protocol.
var errQuery = errors.New("malformed inventory query")

// compare returns the answer to a site's query, and what must be repaired. It is a pure
// function.
func compare(site string, have expectedState, q streams.InventoryQuery) (streams.InventoryAnswer, difference, error) {
	if err := checkQuery(site, q, max(maxEpoch, have.epoch)); err != nil {
		return streams.InventoryAnswer{}, difference{}, err
	}
	sameStream := q.Identity == have.last.Identity || q.HubPosition == streams.HubPosition{}
	if !have.idle || !sameStream || q.Seq < have.last.Seq {
		return streams.InventoryAnswer{State: streams.InventoryBehind}, difference{}, nil
	}
	equal := q.Count == have.inventory.Count() && q.Digest == have.inventory.Digest()
	switch {
	case q.Of != nil:
		d := diff(have.entriesIn(bucketSet(q.Of)), q.Entries)
		if d.size() > 0 {
			return streams.InventoryAnswer{State: streams.InventoryRepairing}, d, nil
		}
	case q.Buckets != nil:
		buckets, err := have.inventory.Differing(q.Buckets)
		if err != nil {
			return streams.InventoryAnswer{}, difference{}, fmt.Errorf("%w: %w", errQuery, err)
		}
		if len(buckets) > 0 {
			return streams.InventoryAnswer{State: streams.InventorySendEntries, Buckets: buckets}, difference{}, nil
		}
	}
	if equal {
		return streams.InventoryAnswer{State: streams.InventoryEqual}, difference{}, nil
	}
	return streams.InventoryAnswer{State: streams.InventorySendBuckets}, difference{}, nil
}

// checkQuery rejects a query with entries of another site, outside the named buckets, or
// beyond the bounds.
func checkQuery(site string, q streams.InventoryQuery, newest uint64) error {
	named := bucketSet(q.Of)
	for b := range named {
		if b < 0 || b >= streams.InventoryBuckets {
			return fmt.Errorf("%w: there is no bucket %d", errQuery, b)
		}
	}
	if q.Of == nil && len(q.Entries) > 0 {
		return fmt.Errorf("%w: entries without buckets", errQuery)
	}
	seen := make(map[string]bool, len(q.Entries))
	for _, e := range q.Entries {
		of, _, err := streams.ParseDesired(e.Subject)
		switch {
		case err != nil:
			return fmt.Errorf("%w: %w", errQuery, err)
		case of != site:
			return fmt.Errorf("%w: %s does not belong to site %s", errQuery, e.Subject, site)
		case !named[e.Bucket()]:
			return fmt.Errorf("%w: %s is not in the named buckets", errQuery, e.Subject)
		case seen[e.Subject]:
			return fmt.Errorf("%w: %s occurs twice", errQuery, e.Subject)
		}
		if err := checkEntry(e, newest); err != nil {
			return fmt.Errorf("%w: %s: %w", errQuery, e.Subject, err)
		}
		seen[e.Subject] = true
	}
	return nil
}

// checkEntry rejects values that no object can have. newest is the highest valid epoch number.
func checkEntry(e streams.InventoryEntry, newest uint64) error {
	for _, s := range []string{e.UID, e.Version, e.Epoch, e.Hash} {
		if len(s) > maxEntryField {
			return fmt.Errorf("field of %d bytes, the limit is %d", len(s), maxEntryField)
		}
	}
	if n := order.EpochNumber(e.Epoch); n > newest {
		return fmt.Errorf("there is no epoch %d", n)
	}
	if n, err := strconv.ParseUint(e.Version, 10, 64); err == nil && n >= maxVersion {
		return fmt.Errorf("there is no version %d", n)
	}
	return nil
}

// diff compares the entries that a site should have with those that it has.
func diff(want map[string]streams.InventoryEntry, is []streams.InventoryEntry) difference {
	var d difference
	missing := maps.Clone(want)
	for _, e := range is {
		w, ok := want[e.Subject]
		switch {
		case !ok:
			d.extra = append(d.extra, e)
		case w != e:
			d.missing = append(d.missing, w)
		}
		delete(missing, e.Subject)
	}
	for _, subject := range slices.Sorted(maps.Keys(missing)) {
		d.missing = append(d.missing, want[subject])
	}
	return d
}

func bucketSet(buckets []int) map[int]bool {
	m := make(map[int]bool, len(buckets))
	for _, b := range buckets {
		m[b] = true
	}
	return m
}
