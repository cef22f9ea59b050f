package inventory

import (
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

// Expected is the state that the bridge compares a site's inventory with.
type Expected struct {
	// Last is the position of the last message that DESIRED holds for the site.
	Last streams.HubPosition
	// Idle is true if nothing is being published, or waits to be, for the site.
	Idle bool
	// Set contains what the site should have. Check does not change it.
	Set *Set
	// EntriesIn returns the entries in the given buckets, by subject.
	EntriesIn func(buckets map[int]bool) map[string]Entry
}

// Difference is the result of a comparison: the entries that are missing at the site or differ
// there, and the extra ones that it should not have.
type Difference struct{ Missing, Extra []Entry }

// Size returns the number of entries that differ.
func (d Difference) Size() int { return len(d.Missing) + len(d.Extra) }

// Check returns the answer to a query that CheckQuery has accepted, and what must be repaired if
// that is Repairing.
func Check(want Expected, q Query) (Answer, Difference, error) {
	sameStream := q.Identity == want.Last.Identity || q.HubPosition == streams.HubPosition{}
	if !want.Idle || !sameStream || q.Seq < want.Last.Seq {
		return Answer{State: Behind}, Difference{}, nil
	}
	equal := q.Count == want.Set.Count() && q.Digest == want.Set.Digest()
	switch {
	case q.Of != nil:
		d := diff(want.EntriesIn(bucketSet(q.Of)), q.Entries)
		if d.Size() > 0 {
			return Answer{State: Repairing, Published: d.Size()}, d, nil
		}
	case q.Buckets != nil:
		buckets, err := want.Set.Differing(q.Buckets)
		if err != nil {
			return Answer{}, Difference{}, fmt.Errorf("%w: %w", ErrQuery, err)
		}
		if len(buckets) > 0 {
			return Answer{State: SendEntries, Buckets: buckets}, Difference{}, nil
		}
	}
	if equal {
		return Answer{State: Equal}, Difference{}, nil
	}
	return Answer{State: SendBuckets}, Difference{}, nil
}

// CheckQuery returns ErrQuery for a query with entries of another site, outside the named buckets,
// or beyond the bounds. epoch is the number of the present epoch (order.EpochNumber). It takes
// much longer than Check, and needs nothing that others use.
func CheckQuery(site string, q Query, epoch uint64) error {
	newest := max(maxEpoch, epoch)
	named := bucketSet(q.Of)
	for b := range named {
		if b < 0 || b >= NumBuckets {
			return fmt.Errorf("%w: there is no bucket %d", ErrQuery, b)
		}
	}
	if q.Of == nil && len(q.Entries) > 0 {
		return fmt.Errorf("%w: entries without buckets", ErrQuery)
	}
	seen := make(map[string]bool, len(q.Entries))
	for _, e := range q.Entries {
		of, _, err := streams.ParseDesired(e.Subject)
		switch {
		case err != nil:
			return fmt.Errorf("%w: %w", ErrQuery, err)
		case of != site:
			return fmt.Errorf("%w: %s does not belong to site %s", ErrQuery, e.Subject, site)
		case !named[e.Bucket()]:
			return fmt.Errorf("%w: %s is not in the named buckets", ErrQuery, e.Subject)
		case seen[e.Subject]:
			return fmt.Errorf("%w: %s occurs twice", ErrQuery, e.Subject)
		}
		if err := checkEntry(e, newest); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrQuery, e.Subject, err)
		}
		seen[e.Subject] = true
	}
	return nil
}

// checkEntry rejects values that no object can have. newest is the highest valid epoch number.
func checkEntry(e Entry, newest uint64) error {
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
func diff(want map[string]Entry, is []Entry) Difference {
	var d Difference
	missing := maps.Clone(want)
	for _, e := range is {
		w, ok := want[e.Subject]
		switch {
		case !ok:
			d.Extra = append(d.Extra, e)
		case w != e:
			d.Missing = append(d.Missing, w)
		}
		delete(missing, e.Subject)
	}
	for _, subject := range slices.Sorted(maps.Keys(missing)) {
		d.Missing = append(d.Missing, want[subject])
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
