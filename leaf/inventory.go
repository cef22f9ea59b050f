package leaf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
)

const (
	// manifestWait is how long the bridge may take to answer one query.
	inventoryWait = 10 * time.Second
	// queryRoom is what a query's other fields, headers and protocol take of max_payload.
	queryRoom = 8 << 10
)

// manifestOf reads the manifest of what SITE_DESIRED has on disk.
func inventoryOf(ctx context.Context, s jetstream.Stream, site string) (*streams.Inventory, error) {
	m := &streams.Inventory{}
	err := entries(ctx, s, site, func(e streams.InventoryEntry) { m.Add(e) })
	return m, err
}

// entries calls f with every entry on disk. An object that lacks parts is not there.
func entries(ctx context.Context, s jetstream.Stream, site string, f func(streams.InventoryEntry)) error {
	parts := streams.PartsSeen{}
	return readLast(ctx, s, streams.DesiredFilter(site), true, func(msg jetstream.Msg, _ *jetstream.MsgMetadata) error {
		if !parts.Add(msg.Subject(), msg.Headers()) {
			return nil
		}
		if e, ok := streams.EntryOf(msg.Subject(), msg.Headers()); ok {
			f(e)
		}
		return nil
	})
}

// compare is one comparison with the bridge, of three queries at most: the digest, the
// buckets when it differs, the entries of the buckets that differ. It returns equal,
// behind or repairing. What was stored between two readings makes the bridge say behind.
func (c *antiEntropy) compare(ctx context.Context) (streams.InventoryState, error) {
	q, m, err := c.query(ctx, nil)
	if err != nil {
		return "", err
	}
	a, err := c.ask(ctx, q)
	if err == nil && a.State == streams.InventorySendBuckets {
		q.Buckets = m.Buckets()
		a, err = c.ask(ctx, q)
	}
	if err == nil && a.State == streams.InventorySendEntries {
		if q, _, err = c.query(ctx, a.Buckets); err != nil {
			return "", err
		}
		a, err = c.ask(ctx, q)
	}
	if err != nil {
		return "", err
	}
	switch a.State {
	case streams.InventoryEqual, streams.InventoryRepairing:
		return a.State, nil
	case streams.InventoryBehind, streams.InventorySendBuckets, streams.InventorySendEntries:
		// What is asked for again has changed in between.
		return streams.InventoryBehind, nil
	}
	return "", fmt.Errorf("compare the manifest: the bridge answers %q", a.State)
}

// query reads the manifest and the position that belongs to it and, when buckets are
// named, the entries of as many of them as fit into one message.
func (c *antiEntropy) query(ctx context.Context, buckets []int) (streams.InventoryQuery, *streams.Inventory, error) {
	// Nothing is stored meanwhile, so that all belongs together.
	c.r.storing.Lock()
	defer c.r.storing.Unlock()
	s, err := c.r.js.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return streams.InventoryQuery{}, nil, fmt.Errorf("open %s: %w", streams.SiteDesired, err)
	}
	at, err := lastSource(ctx, c.r.js)
	if err != nil {
		return streams.InventoryQuery{}, nil, err
	}
	if at.Identity == "" {
		at.Identity = c.identity
	}
	m, sizes := &streams.Inventory{}, [streams.InventoryBuckets]int{}
	err = entries(ctx, s, c.r.site, func(e streams.InventoryEntry) {
		m.Add(e)
		sizes[e.Bucket()] += entrySize(e)
	})
	if err != nil {
		return streams.InventoryQuery{}, nil, fmt.Errorf("read the manifest of %s: %w", streams.SiteDesired, err)
	}
	c.position = at.Seq
	q := streams.InventoryQuery{Identity: at.Identity, Position: at.Seq, Count: m.Count(), Digest: m.Digest()}
	if len(buckets) == 0 {
		return q, m, nil
	}
	if q.Of, err = fitting(buckets, &sizes, int(c.r.nc.MaxPayload())-queryRoom); err != nil {
		return streams.InventoryQuery{}, nil, err
	}
	wanted := [streams.InventoryBuckets]bool{}
	for _, b := range q.Of {
		wanted[b] = true
	}
	q.Entries = []streams.InventoryEntry{}
	err = entries(ctx, s, c.r.site, func(e streams.InventoryEntry) {
		if wanted[e.Bucket()] {
			q.Entries = append(q.Entries, e)
		}
	})
	if err != nil {
		return streams.InventoryQuery{}, nil, fmt.Errorf("read the entries of %s: %w", streams.SiteDesired, err)
	}
	return q, m, nil
}

// fitting are the first of the buckets whose entries together take no more than limit
// bytes.
func fitting(buckets []int, sizes *[streams.InventoryBuckets]int, limit int) ([]int, error) {
	var out []int
	sum := 0
	for _, b := range buckets {
		if b < 0 || b >= streams.InventoryBuckets {
			return nil, fmt.Errorf("the bridge asks for bucket %d of an inventory of %d", b, streams.InventoryBuckets)
		}
		if sum += sizes[b]; sum > limit {
			break
		}
		out = append(out, b)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the entries of bucket %d take %d bytes, a message %d", buckets[0], sizes[buckets[0]], limit)
	}
	return out, nil
}

// entrySize is what an entry takes in a query at most: subjects and versions have no
// characters that JSON escapes, other than by a header that is not of this contract.
func entrySize(e streams.InventoryEntry) int {
	const names = len(`{"subject":"","uid":"","version":"","epoch":"","hash":""},`)
	n := names
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

func (c *antiEntropy) ask(ctx context.Context, q streams.InventoryQuery) (streams.InventoryAnswer, error) {
	data, err := json.Marshal(q)
	if err != nil {
		return streams.InventoryAnswer{}, fmt.Errorf("encode the manifest: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, inventoryWait+transferTime(len(data)))
	defer cancel()
	reply, err := c.r.nc.RequestWithContext(ctx, streams.RequestSubject(c.r.site, streams.RequestInventory), data)
	if err != nil {
		return streams.InventoryAnswer{}, fmt.Errorf("ask for the manifest: %w", err)
	}
	return parseInventoryAnswer(reply)
}

func parseInventoryAnswer(msg *nats.Msg) (streams.InventoryAnswer, error) {
	var a streams.InventoryAnswer
	if err := json.Unmarshal(msg.Data, &a); err != nil {
		return streams.InventoryAnswer{}, fmt.Errorf("read the manifest's answer: %w", err)
	}
	if a.Error != "" {
		return streams.InventoryAnswer{}, errors.New("the bridge refuses the manifest: " + a.Error)
	}
	if a.State == streams.InventorySendEntries && len(a.Buckets) == 0 {
		return streams.InventoryAnswer{}, errors.New("the bridge asks for the entries of no bucket")
	}
	return a, nil
}

// transfer is what so many bytes take on the slowest link that is reckoned with.
func transferTime(bytes int) time.Duration { return time.Duration(bytes) * time.Second / slowestLink }
