package bridge

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/bridge/antientropy"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/requests"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/inventory"
	"github.com/petiole-io/petiole/streams/order"
)

const (
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
		Workers: 2, Backlog: 256, PerSite: 2, MaxBytes: inventory.MaxQuery,
		Answer: func(_ context.Context, site string, data []byte) any { return a.answer(site, data) },
		Refuse: func(reason string) any {
			return inventory.Answer{State: inventory.Behind, Error: reason}
		},
	}
}

func (a *antiEntropy) answer(site string, data []byte) inventory.Answer {
	if !a.publish.SiteExists(site) {
		return inventory.Answer{State: inventory.Behind, Error: fmt.Sprintf("there is no Site %s", site)}
	}
	q, err := inventory.DecodeQuery(data)
	if err != nil {
		return inventory.Answer{State: inventory.Behind, Error: err.Error()}
	}
	answer, d, err := a.publish.compare(site, a.identity, q)
	if err != nil {
		return inventory.Answer{State: inventory.Behind, Error: err.Error()}
	}
	if answer.State == inventory.Repairing {
		answer = a.repair(site, d)
	}
	if answer.State == inventory.Equal || answer.State == inventory.Repairing {
		a.syncStates.Checked(site, a.now(), answer.State)
	}
	a.count.checks.Add(1)
	return answer
}

// repair publishes missing objects again, and tombstones for extra ones. If that did not help,
// at every second mismatch in a row, it also requests a full resync of the site.
func (a *antiEntropy) repair(site string, d inventory.Difference) inventory.Answer {
	now := a.now()
	if last := a.syncStates.Get(site); last.Outcome == inventory.Repairing && now.Sub(last.LastCheck) < repairSpacing {
		return inventory.Answer{State: inventory.Behind}
	}
	if !a.publish.publishAgain(site, d) {
		return inventory.Answer{State: inventory.Behind, Error: "too many tombstones wait for the site"}
	}
	a.count.mismatches.Add(1)
	row := a.syncStates.Mismatch(site)
	a.log.Warn("site differs from what was published, repairing", zap.String("site", site),
		zap.Int("missing", len(d.Missing)), zap.Int("extra", len(d.Extra)), zap.Int("inRow", row))
	if row%2 == 0 {
		a.resync.MismatchRepeated(site)
	}
	return inventory.Answer{State: inventory.Repairing, Published: d.Size()}
}

// compare compares a site's inventory with what was published for it.
func (p *publisher) compare(site, identity string, q inventory.Query) (inventory.Answer, inventory.Difference, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return inventory.Check(site, inventory.Expected{
		Epoch: order.EpochNumber(p.epoch), Last: streams.HubPosition{Seq: p.desired.lastSeq(site), Identity: identity}, Idle: p.siteIdleLocked(site),
		Set:       p.desired.inventory(site),
		EntriesIn: func(b map[int]bool) map[string]inventory.Entry { return p.desired.entriesIn(site, b) },
	}, q)
}

// publishAgain schedules the repair of a difference. It returns false, without scheduling
// anything, if too many tombstones wait for the site.
func (p *publisher) publishAgain(site string, d inventory.Difference) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(d.Extra) > 0 && len(p.desired.tombstones[site])+len(d.Extra) > maxExtra {
		return false
	}
	marked := p.markDirty(site)
	for _, e := range d.Missing {
		if _, ref, err := streams.ParseDesired(e.Subject); err == nil {
			marked.keys.Insert(kube.KeyOf(ref))
			marked.force.Insert(kube.KeyOf(ref))
		}
	}
	for _, e := range d.Extra {
		marked.extra[e.Subject] = e
	}
	return true
}
