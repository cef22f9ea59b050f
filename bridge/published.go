package bridge

import (
	"context"

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
	// parts says that there may be messages with the parts of a large object.
	parts bool
}

// published mirrors the headers of DESIRED. Its owner serialises the calls.
//
// An object may be on several subjects of a site: a pod that was recreated on, or a
// device that was moved to, another node leaves one behind until it is a tombstone.
type published struct {
	sites map[string]map[objectKey]map[string]entry
	// tombstones are the subjects that wait for the site to pass them.
	tombstones map[string]map[string]objectKey
}

func newPublished() *published {
	return &published{sites: map[string]map[objectKey]map[string]entry{}, tombstones: map[string]map[string]objectKey{}}
}

func (p *published) put(site string, k objectKey, e entry) {
	if p.sites[site] == nil {
		p.sites[site] = map[objectKey]map[string]entry{}
	}
	if p.sites[site][k] == nil {
		p.sites[site][k] = map[string]entry{}
	}
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

func (p *published) remove(site string, k objectKey, subject string) {
	delete(p.tombstones[site], subject)
	delete(p.sites[site][k], subject)
	if len(p.sites[site][k]) == 0 {
		delete(p.sites[site], k)
	}
}

func (p *published) removeSite(site string) {
	delete(p.sites, site)
	delete(p.tombstones, site)
}

// of are the entries of one object, by subject. The map must not be changed.
func (p *published) of(site string, k objectKey) map[string]entry { return p.sites[site][k] }

// passed are the tombstones of a site whose sequence the site's acknowledgement floor
// has passed.
func (p *published) passed(site string, floor uint64) map[objectKey][]entry {
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

// recoverPublished reads the headers of DESIRED. A subject that is not of the contract
// belongs to no site and is left alone.
func recoverPublished(ctx context.Context, h *hub) (*published, error) {
	p := newPublished()
	err := readAll(ctx, h.js, h.desired, ">", true, func(msg jetstream.Msg) error {
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
		p.put(site, keyOf(ref), entryOf(msg.Subject(), msg.Headers(), meta.Sequence.Stream))
		return nil
	})
	return p, err
}

func entryOf(subject string, h nats.Header, seq uint64) entry {
	return entry{
		subject: subject, op: streams.Op(h.Get(streams.HeaderOp)), uid: h.Get(streams.HeaderUID),
		version: h.Get(streams.HeaderVersion), epoch: h.Get(streams.HeaderEpoch), hash: h.Get(streams.HeaderHash),
		seq: seq, parts: h.Get(streams.HeaderParts) != "",
	}
}
