package bridge

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/bridge/antientropy"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/requests"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/order"
)

const (
	// maxInventoryQuery bounds a query, in bytes; usually the hub's max_payload is the lower
	// limit.
	maxInventoryQuery = 4 << 20
	// minEntryBytes is the smallest encoded size of an entry. A query that claims more entries
	// than fit is rejected before they are decoded.
	minEntryBytes = 32
	// repairSpacing is the minimum time between two repairs of a site.
	repairSpacing = 2 * time.Second
	// maxExtra bounds the tombstones that wait for a site for objects that only the site knew,
	// so that a site that invents objects cannot exhaust the memory.
	maxExtra = 10_000
)

// antiEntropy answers the sites' comparisons of their inventories and repairs the differences.
type antiEntropy struct {
	publish    *publisher
	syncStates *antientropy.States
	resync     *antientropy.Resyncer
	log        *zap.Logger
	count      *counters
	now        func() time.Time
	// identity is the incarnation of the stream DESIRED.
	identity string
}

func (a *antiEntropy) handler() requests.Handler {
	return requests.Handler{
		Workers: 2, Backlog: 256, PerSite: 2, MaxBytes: maxInventoryQuery,
		Answer: func(_ context.Context, site string, data []byte) any { return a.answer(site, data) },
		Refuse: func(reason string) any {
			return streams.InventoryAnswer{State: streams.InventoryBehind, Error: reason}
		},
	}
}

func (a *antiEntropy) answer(site string, data []byte) streams.InventoryAnswer {
	if !a.publish.SiteExists(site) {
		return streams.InventoryAnswer{State: streams.InventoryBehind, Error: fmt.Sprintf("there is no Site %s", site)}
	}
	q, err := decodeInventoryQuery(data)
	if err != nil {
		return streams.InventoryAnswer{State: streams.InventoryBehind, Error: err.Error()}
	}
	answer, d, err := a.publish.compare(site, a.identity, q)
	if err != nil {
		return streams.InventoryAnswer{State: streams.InventoryBehind, Error: err.Error()}
	}
	if answer.State == streams.InventoryRepairing {
		answer = a.repair(site, d)
	}
	if answer.State == streams.InventoryEqual || answer.State == streams.InventoryRepairing {
		a.syncStates.Checked(site, a.now(), answer.State)
	}
	a.count.checks.Add(1)
	return answer
}

// repair publishes missing objects again, and tombstones for extra ones. If that did not help,
// at every second mismatch in a row, it also requests a full resync of the site.
func (a *antiEntropy) repair(site string, d difference) streams.InventoryAnswer {
	now := a.now()
	if last := a.syncStates.Get(site); last.Outcome == streams.InventoryRepairing && now.Sub(last.LastCheck) < repairSpacing {
		return streams.InventoryAnswer{State: streams.InventoryBehind}
	}
	if !a.publish.publishAgain(site, d) {
		return streams.InventoryAnswer{State: streams.InventoryBehind, Error: "too many tombstones wait for the site"}
	}
	a.count.mismatches.Add(1)
	row := a.syncStates.Mismatch(site)
	a.log.Warn("site differs from what was published, repairing", zap.String("site", site),
		zap.Int("missing", len(d.missing)), zap.Int("extra", len(d.extra)), zap.Int("inRow", row))
	if row%2 == 0 {
		a.resync.MismatchRepeated(site)
	}
	return streams.InventoryAnswer{State: streams.InventoryRepairing, Published: d.size()}
}

// compare compares a site's inventory with what was published for it.
func (p *publisher) compare(site, identity string, q streams.InventoryQuery) (streams.InventoryAnswer, difference, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return compare(site, expectedState{
		epoch: order.EpochNumber(p.epoch), last: streams.HubPosition{Seq: p.desired.lastSeq(site), Identity: identity}, idle: p.siteIdleLocked(site),
		inventory: p.desired.inventory(site),
		entriesIn: func(b map[int]bool) map[string]streams.InventoryEntry { return p.desired.entriesIn(site, b) },
	}, q)
}

// publishAgain schedules the repair of a difference. It returns false, without scheduling
// anything, if too many tombstones wait for the site.
func (p *publisher) publishAgain(site string, d difference) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(d.extra) > 0 && len(p.desired.tombstones[site])+len(d.extra) > maxExtra {
		return false
	}
	marked := p.markDirty(site)
	for _, e := range d.missing {
		if _, ref, err := streams.ParseDesired(e.Subject); err == nil {
			marked.keys.Insert(kube.KeyOf(ref))
			marked.force.Insert(kube.KeyOf(ref))
		}
	}
	for _, e := range d.extra {
		marked.extra[e.Subject] = e
	}
	return true
}

// decodeInventoryQuery decodes a query with bounded memory.
func decodeInventoryQuery(data []byte) (streams.InventoryQuery, error) {
	if len(data) > maxInventoryQuery {
		return streams.InventoryQuery{}, fmt.Errorf("%w: %d bytes", errQuery, len(data))
	}
	if n := bytes.Count(data, []byte("{")); n > 1+len(data)/minEntryBytes {
		return streams.InventoryQuery{}, fmt.Errorf("%w: %d entries in %d bytes", errQuery, n, len(data))
	}
	var q struct {
		streams.InventoryQuery
		Of boundedInts `json:"of"`
	}
	if err := json.Unmarshal(data, &q); err != nil {
		return streams.InventoryQuery{}, fmt.Errorf("%w: %w", errQuery, err)
	}
	q.InventoryQuery.Of = q.Of
	return q.InventoryQuery, nil
}

// boundedInts is a list with at most as many numbers as there are buckets.
type boundedInts []int

// UnmarshalJSON implements json.Unmarshaler.
func (b *boundedInts) UnmarshalJSON(data []byte) error {
	if bytes.Count(data, []byte(",")) >= streams.InventoryBuckets {
		return fmt.Errorf("more than %d buckets", streams.InventoryBuckets)
	}
	return json.Unmarshal(data, (*[]int)(b))
}
