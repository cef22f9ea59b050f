package inventory

import (
	"context"
	"fmt"

	"github.com/petiole-io/petiole/streams"
)

// Site is what a leaf has on disk, and its line to the bridge.
type Site interface {
	// Read calls f while nothing is stored: with the position of the last message that is
	// stored, and with entries, which calls yield with each entry.
	Read(ctx context.Context, f func(at streams.HubPosition, entries func(yield func(Entry)) error) error) error
	// Ask sends a query to the bridge and returns its answer (DecodeAnswer).
	Ask(ctx context.Context, q Query) (Answer, error)
}

// Compare compares once with the bridge, in three queries at most: the digest, the buckets if it
// differs, and the entries of the buckets that differ, as many as fit into limit bytes, or those of
// one bucket within most bytes. It returns Equal, Behind or Repairing. Messages that are stored
// between two queries make the bridge answer Behind.
func Compare(ctx context.Context, site Site, limit, most int) (State, error) {
	q, s, err := read(ctx, site, nil, limit, most)
	if err != nil {
		return "", err
	}
	a, err := site.Ask(ctx, q)
	if err == nil && a.State == SendBuckets {
		q.Buckets = s.Buckets()
		a, err = site.Ask(ctx, q)
	}
	if err == nil && a.State == SendEntries {
		if q, _, err = read(ctx, site, a.Buckets, limit, most); err != nil {
			return "", err
		}
		a, err = site.Ask(ctx, q)
	}
	if err != nil {
		return "", err
	}
	switch a.State {
	case Equal, Repairing:
		return a.State, nil
	case Behind, SendBuckets, SendEntries:
		// What is asked for again has changed in between.
		return Behind, nil
	}
	return "", fmt.Errorf("compare the inventory: the bridge answers %q", a.State)
}

// read returns the query that describes what the site has, and if buckets are named, the entries
// of as many of them as fit into limit bytes, or those of one bucket within most bytes.
func read(ctx context.Context, site Site, buckets []int, limit, most int) (q Query, s *Set, err error) {
	s = &Set{}
	err = site.Read(ctx, func(at streams.HubPosition, entries func(func(Entry)) error) error {
		var sizes [NumBuckets]int
		err := entries(func(e Entry) {
			s.Add(e)
			sizes[e.Bucket()] += e.size()
		})
		q = Query{HubPosition: at, Count: s.Count(), Digest: s.Digest()}
		if err != nil || len(buckets) == 0 {
			return err
		}
		if q.Of, err = fitting(buckets, &sizes, limit, most); err != nil {
			return err
		}
		wanted := bucketSet(q.Of)
		q.Entries = []Entry{}
		return entries(func(e Entry) {
			if wanted[e.Bucket()] {
				q.Entries = append(q.Entries, e)
			}
		})
	})
	return q, s, err
}

// fitting returns the first of the buckets whose entries take no more than limit bytes in total. The
// first one may take up to most bytes.
func fitting(buckets []int, sizes *[NumBuckets]int, limit, most int) ([]int, error) {
	var out []int
	sum := 0
	for _, b := range buckets {
		if b < 0 || b >= NumBuckets {
			return nil, fmt.Errorf("the bridge asks for bucket %d of an inventory of %d", b, NumBuckets)
		}
		if sum += sizes[b]; sum > limit && len(out) > 0 || sum > most {
			break
		}
		out = append(out, b)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the entries of bucket %d take %d bytes, a message %d", buckets[0], sizes[buckets[0]], most)
	}
	return out, nil
}

// size returns how many bytes an entry takes in a query at most. Valid subjects and versions have
// no characters that JSON escapes.
func (e Entry) size() int {
	n := len(`{"subject":"","uid":"","version":"","epoch":"","hash":""},`)
	for _, s := range []string{e.Subject, e.UID, e.Version, e.Epoch, e.Hash} {
		for _, c := range []byte(s) {
			if c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
				n += 5
			}
			n++
		}
	}
	return n
}
