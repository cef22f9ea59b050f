package replicate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/leaf/desired"
	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams"
)

const (
	// inventoryWait is how long the bridge may take to answer one query.
	inventoryWait = 10 * time.Second
	// queryRoom is the part of max_payload for the other fields of a query, headers and
	// protocol.
	queryRoom = 8 << 10
)

// compare compares once with the bridge, in three queries at most: the digest, the buckets if it
// differs, and the entries of the buckets that differ. It returns equal, behind or repairing.
// Messages that are stored between two queries make the bridge answer behind.
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
	return "", fmt.Errorf("compare the inventory: the bridge answers %q", a.State)
}

// query returns the inventory and its position, and if buckets are named, the entries of as many
// of them as fit into one message.
func (c *antiEntropy) query(ctx context.Context, buckets []int) (streams.InventoryQuery, *streams.Inventory, error) {
	// Nothing may be stored meanwhile: inventory and position belong together.
	c.r.cfg.Desired.Lock()
	defer c.r.cfg.Desired.Unlock()
	s, err := c.r.cfg.JS.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return streams.InventoryQuery{}, nil, fmt.Errorf("open %s: %w", streams.SiteDesired, err)
	}
	at, err := lastSource(ctx, c.r.cfg.JS)
	if err != nil {
		return streams.InventoryQuery{}, nil, err
	}
	if at.Identity == "" {
		at.Identity = c.identity
	}
	m, sizes := &streams.Inventory{}, [streams.InventoryBuckets]int{}
	err = desired.Entries(ctx, s, c.r.cfg.Site, func(e streams.InventoryEntry) {
		m.Add(e)
		sizes[e.Bucket()] += entrySize(e)
	})
	if err != nil {
		return streams.InventoryQuery{}, nil, fmt.Errorf("read the inventory of %s: %w", streams.SiteDesired, err)
	}
	c.position = at.Seq
	q := streams.InventoryQuery{HubPosition: at, Count: m.Count(), Digest: m.Digest()}
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
	err = desired.Entries(ctx, s, c.r.cfg.Site, func(e streams.InventoryEntry) {
		if wanted[e.Bucket()] {
			q.Entries = append(q.Entries, e)
		}
	})
	if err != nil {
		return streams.InventoryQuery{}, nil, fmt.Errorf("read the entries of %s: %w", streams.SiteDesired, err)
	}
	return q, m, nil
}

// fitting returns the first of the buckets whose entries take no more than limit bytes in total.
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

// entrySize returns how many bytes an entry takes in a query at most. Valid subjects and
// versions have no characters that JSON escapes.
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
		return streams.InventoryAnswer{}, fmt.Errorf("encode the inventory: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, inventoryWait+transfer.Duration(len(data)))
	defer cancel()
	reply, err := c.r.nc.RequestWithContext(ctx, streams.RequestSubject(c.r.cfg.Site, streams.RequestInventory), data)
	if err != nil {
		return streams.InventoryAnswer{}, fmt.Errorf("request the inventory comparison: %w", err)
	}
	return parseInventoryAnswer(reply)
}

func parseInventoryAnswer(msg *nats.Msg) (streams.InventoryAnswer, error) {
	var a streams.InventoryAnswer
	if err := json.Unmarshal(msg.Data, &a); err != nil {
		return streams.InventoryAnswer{}, fmt.Errorf("decode the answer about the inventory: %w", err)
	}
	if a.Error != "" {
		return streams.InventoryAnswer{}, errors.New("the bridge refuses the inventory: " + a.Error)
	}
	if a.State == streams.InventorySendEntries && len(a.Buckets) == 0 {
		return streams.InventoryAnswer{}, errors.New("the bridge asks for the entries of no bucket")
	}
	return a, nil
}
