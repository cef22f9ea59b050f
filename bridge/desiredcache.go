package bridge

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
)

// entry is what DESIRED holds on one subject.
type entry struct {
	subject string
	op      streams.Op
	uid     string
	version string
	epoch   string
	hash    string
	seq     uint64
	// term is that of the bridge that published it, 0 when it is not known.
	term uint64
	// parts says that there may be messages with the parts of a large object.
	parts bool
}

// manifest is what a site's manifest says of the entry; false for a tombstone.
func (e entry) inventoryEntry() (streams.InventoryEntry, bool) {
	return streams.InventoryEntry{Subject: e.subject, UID: e.uid, Version: e.version, Epoch: e.epoch, Hash: e.hash}, e.op != streams.OpDelete
}

// published mirrors the headers of DESIRED. Its owner serialises the calls.
//
// An object may be on several subjects of a site: a pod that was recreated on, or a
// device that was moved to, another node leaves one behind until it is a tombstone.
type desiredCache struct {
	sites map[string]map[objectKey]map[string]entry
	// tombstones are the subjects that wait for the site to pass them.
	tombstones map[string]map[string]objectKey
	// manifests are kept up to date with the entries.
	inventories map[string]*streams.Inventory
}

func newDesiredCache() *desiredCache {
	return &desiredCache{
		sites: map[string]map[objectKey]map[string]entry{}, tombstones: map[string]map[string]objectKey{},
		inventories: map[string]*streams.Inventory{},
	}
}

func (p *desiredCache) put(site string, k objectKey, e entry) {
	if p.sites[site] == nil {
		p.sites[site] = map[objectKey]map[string]entry{}
	}
	if p.sites[site][k] == nil {
		p.sites[site][k] = map[string]entry{}
	}
	p.updateInventory(site, p.sites[site][k][e.subject], e)
	p.sites[site][k][e.subject] = e
	if e.op != streams.OpDelete {
		delete(p.tombstones[site], e.subject)
		return
	}
	if p.tombstones[site] == nil {
		p.tombstones[site] = map[string]objectKey{}
	}
	p.tombstones[site][e.subject] = k
}

// count takes one entry out of the site's manifest and another in.
func (p *desiredCache) updateInventory(site string, was, is entry) {
	m := p.inventories[site]
	if m == nil {
		m = new(streams.Inventory)
		p.inventories[site] = m
	}
	if e, ok := was.inventoryEntry(); ok && was.subject != "" {
		m.Remove(e)
	}
	if e, ok := is.inventoryEntry(); ok && is.subject != "" {
		m.Add(e)
	}
}

func (p *desiredCache) remove(site string, k objectKey, subject string) {
	p.updateInventory(site, p.sites[site][k][subject], entry{})
	delete(p.tombstones[site], subject)
	delete(p.sites[site][k], subject)
	if len(p.sites[site][k]) == 0 {
		delete(p.sites[site], k)
	}
}

func (p *desiredCache) removeSite(site string) {
	delete(p.sites, site)
	delete(p.tombstones, site)
	delete(p.inventories, site)
}

// last is the highest sequence that DESIRED holds for a site. What was held and is not
// any more does not count: a site that starts anew cannot get it.
func (p *desiredCache) lastSeq(site string) uint64 {
	var seq uint64
	for _, entries := range p.sites[site] {
		for _, e := range entries {
			seq = max(seq, e.seq)
		}
	}
	return seq
}

// manifest is the digest of what a site should have; it must not be changed.
func (p *desiredCache) inventory(site string) *streams.Inventory {
	if m := p.inventories[site]; m != nil {
		return m
	}
	return new(streams.Inventory)
}

// within are the entries of a site's manifest in the buckets, by subject.
func (p *desiredCache) entriesIn(site string, buckets map[int]bool) map[string]streams.InventoryEntry {
	out := map[string]streams.InventoryEntry{}
	for _, entries := range p.sites[site] {
		for _, e := range entries {
			if m, ok := e.inventoryEntry(); ok && buckets[m.Bucket()] {
				out[m.Subject] = m
			}
		}
	}
	return out
}

// newest are the highest number of an epoch and the highest term of all entries.
func (p *desiredCache) highest() (number, term uint64) {
	for _, objects := range p.sites {
		for _, entries := range objects {
			for _, e := range entries {
				number, term = max(number, epochNumber(e.epoch)), max(term, e.term)
			}
		}
	}
	return number, term
}

// of are the entries of one object, by subject. The map must not be changed.
func (p *desiredCache) entries(site string, k objectKey) map[string]entry { return p.sites[site][k] }

// passed are the tombstones of a site whose sequence the site's acknowledgement floor
// has passed.
func (p *desiredCache) ackedTombstones(site string, floor uint64) map[objectKey][]entry {
	var out map[objectKey][]entry
	for subject, k := range p.tombstones[site] {
		if e := p.sites[site][k][subject]; e.seq <= floor {
			if out == nil {
				out = map[objectKey][]entry{}
			}
			out[k] = append(out[k], e)
		}
	}
	return out
}

// recoverPublished reads the headers of DESIRED, and returns up to which sequence it
// has. A subject that is not of the contract belongs to no site and is left alone. An
// object that lacks parts is of no content: it is published again.
func loadDesired(ctx context.Context, h *hub) (*desiredCache, uint64, error) {
	p := newDesiredCache()
	info, err := h.desired.Info(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", streams.Desired, err)
	}
	parts := streams.PartsSeen{}
	err = readAll(ctx, h.js, h.desired, 1, ">", true, func(msg jetstream.Msg) error {
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
		p.put(site, keyOf(ref), e)
		return nil
	})
	return p, info.State.LastSeq, err
}

func entryOf(subject string, h nats.Header, seq uint64) entry {
	return entry{
		subject: subject, op: streams.Op(h.Get(streams.HeaderOp)), uid: h.Get(streams.HeaderUID),
		version: h.Get(streams.HeaderVersion), epoch: h.Get(streams.HeaderEpoch), hash: h.Get(streams.HeaderHash),
		seq: seq, term: streams.TermOf(h), parts: h.Get(streams.HeaderParts) != "",
	}
}
