package desired

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/inventory"
	"github.com/petiole-io/petiole/streams/order"
)

// entry describes the message that DESIRED holds on one subject.
type entry struct {
	subject string
	op      streams.Op
	uid     string
	stamp   order.Stamp
	hash    string
	seq     uint64
	// term is the term of the bridge that published the message, 0 if unknown.
	term uint64
	// parts is true if messages with parts of a large object may exist.
	parts bool
}

// inventoryEntry returns the entry as it appears in a site's inventory, false for a tombstone.
func (e entry) inventoryEntry() (inventory.Entry, bool) {
	return inventory.Entry{Subject: e.subject, UID: e.uid, Version: e.stamp.Version, Epoch: e.stamp.Epoch, Hash: e.hash}, e.op != streams.OpDelete
}

// cache mirrors the headers of DESIRED. Its owner serializes the calls.
//
// An object can be on several subjects of a site: when a pod is recreated on another node, or
// a device moves to one, the old subject stays until it holds a tombstone.
type cache struct {
	sites map[string]map[kube.Key]map[string]entry
	// tombstones maps the subjects of each site whose tombstone the site has not acknowledged.
	tombstones map[string]map[string]kube.Key
	// inventories are updated with each change of an entry.
	inventories map[string]*inventory.Set
}

func newCache() *cache {
	return &cache{
		sites: map[string]map[kube.Key]map[string]entry{}, tombstones: map[string]map[string]kube.Key{},
		inventories: map[string]*inventory.Set{},
	}
}

func (c *cache) put(site string, k kube.Key, e entry) {
	if c.sites[site] == nil {
		c.sites[site] = map[kube.Key]map[string]entry{}
	}
	if c.sites[site][k] == nil {
		c.sites[site][k] = map[string]entry{}
	}
	c.updateInventory(site, c.sites[site][k][e.subject], e)
	c.sites[site][k][e.subject] = e
	if e.op != streams.OpDelete {
		delete(c.tombstones[site], e.subject)
		return
	}
	if c.tombstones[site] == nil {
		c.tombstones[site] = map[string]kube.Key{}
	}
	c.tombstones[site][e.subject] = k
}

// updateInventory replaces one entry of the site's inventory by another.
func (c *cache) updateInventory(site string, was, is entry) {
	m := c.inventories[site]
	if m == nil {
		m = new(inventory.Set)
		c.inventories[site] = m
	}
	if e, ok := was.inventoryEntry(); ok && was.subject != "" {
		m.Remove(e)
	}
	if e, ok := is.inventoryEntry(); ok && is.subject != "" {
		m.Add(e)
	}
}

func (c *cache) remove(site string, k kube.Key, subject string) {
	c.updateInventory(site, c.sites[site][k][subject], entry{})
	delete(c.tombstones[site], subject)
	delete(c.sites[site][k], subject)
	if len(c.sites[site][k]) == 0 {
		delete(c.sites[site], k)
	}
}

func (c *cache) removeSite(site string) {
	delete(c.sites, site)
	delete(c.tombstones, site)
	delete(c.inventories, site)
}

// lastSeq returns the highest sequence that DESIRED holds for a site. Deleted messages do not
// count: a site that starts from scratch cannot receive them.
func (c *cache) lastSeq(site string) uint64 {
	var seq uint64
	for _, entries := range c.sites[site] {
		for _, e := range entries {
			seq = max(seq, e.seq)
		}
	}
	return seq
}

// inventory returns the digest of what a site should have. The caller must not change it.
func (c *cache) inventory(site string) *inventory.Set {
	if m := c.inventories[site]; m != nil {
		return m
	}
	return new(inventory.Set)
}

// entriesIn returns the entries of a site's inventory in the given buckets, by subject.
func (c *cache) entriesIn(site string, buckets map[int]bool) map[string]inventory.Entry {
	out := map[string]inventory.Entry{}
	for _, entries := range c.sites[site] {
		for _, e := range entries {
			if m, ok := e.inventoryEntry(); ok && buckets[m.Bucket()] {
				out[m.Subject] = m
			}
		}
	}
	return out
}

// highest returns the highest epoch number and the highest term of all entries.
func (c *cache) highest() (number, term uint64) {
	for _, objects := range c.sites {
		for _, entries := range objects {
			for _, e := range entries {
				number, term = max(number, order.EpochNumber(e.stamp.Epoch)), max(term, e.term)
			}
		}
	}
	return number, term
}

// entries returns the entries of one object, by subject. The caller must not change the map.
func (c *cache) entries(site string, k kube.Key) map[string]entry { return c.sites[site][k] }

// ackedTombstones returns the tombstones of a site up to its acknowledgement floor.
func (c *cache) ackedTombstones(site string, floor uint64) map[kube.Key][]entry {
	var out map[kube.Key][]entry
	for subject, k := range c.tombstones[site] {
		if e := c.sites[site][k][subject]; e.seq <= floor {
			if out == nil {
				out = map[kube.Key][]entry{}
			}
			out[k] = append(out[k], e)
		}
	}
	return out
}

// Stored is the content of DESIRED when a bridge became leader.
type Stored struct {
	cache *cache
	// lastSeq is the last sequence that was read.
	lastSeq uint64
}

// Highest returns the highest epoch number and the highest term of all messages.
func (s *Stored) Highest() (number, term uint64) { return s.cache.highest() }

// Read reads the headers of DESIRED. It skips subjects that do not belong to the protocol. An
// object with missing parts gets an empty hash, so that it is published again.
func Read(ctx context.Context, h *hub.Hub) (*Stored, error) {
	c := newCache()
	info, err := h.Desired.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", streams.Desired, err)
	}
	parts := streams.PartsSeen{}
	err = h.ReadAll(ctx, h.Desired, 1, ">", true, func(msg jetstream.Msg) error {
		whole := parts.Add(msg.Subject(), msg.Headers())
		if streams.IsPart(msg.Subject()) {
			return nil
		}
		site, ref, err := streams.ParseDesired(msg.Subject())
		if err != nil {
			return nil
		}
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		e := entryOf(msg.Subject(), msg.Headers(), meta.Sequence.Stream)
		e.parts = e.parts || len(parts[msg.Subject()]) > 0
		if !whole {
			e.hash = ""
		}
		c.put(site, kube.KeyOf(ref), e)
		return nil
	})
	return &Stored{c, info.State.LastSeq}, err
}

func entryOf(subject string, h nats.Header, seq uint64) entry {
	return entry{
		subject: subject, op: streams.Op(h.Get(streams.HeaderOp)), uid: h.Get(streams.HeaderUID),
		stamp: streams.StampOf(h), hash: h.Get(streams.HeaderHash),
		seq: seq, term: streams.TermOf(h), parts: h.Get(streams.HeaderParts) != "",
	}
}
