package desired

import (
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/inventory"
	"github.com/petiole-io/petiole/streams/order"
)

// maxExtra bounds the tombstones that wait for a site for objects that only the site knew, so
// that a site that invents objects cannot exhaust the memory.
const maxExtra = 10_000

// Compare compares a site's inventory with what was published for it.
func (r *Reconciler) Compare(site string, q inventory.Query) (inventory.Answer, inventory.Difference, error) {
	// What takes long of a query that is as large as may be holds up nobody.
	if err := inventory.CheckQuery(site, q, order.EpochNumber(r.epoch)); err != nil {
		return inventory.Answer{}, inventory.Difference{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return inventory.Check(inventory.Expected{
		Last: streams.HubPosition{Seq: r.desired.lastSeq(site), Identity: r.hub.Identity}, Idle: r.siteIdleLocked(site),
		Set:       r.desired.inventory(site),
		EntriesIn: func(b map[int]bool) map[string]inventory.Entry { return r.desired.entriesIn(site, b) },
	}, q)
}

// PublishAgain schedules the repair of a difference. It returns false, without scheduling
// anything, if too many tombstones wait for the site.
func (r *Reconciler) PublishAgain(site string, d inventory.Difference) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(d.Extra) > 0 && len(r.desired.tombstones[site])+len(d.Extra) > maxExtra {
		return false
	}
	marked := r.markDirty(site)
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

// SiteIdle reports whether nothing is being published, or waits to be, for the site.
func (r *Reconciler) SiteIdle(site string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.siteIdleLocked(site)
}

// siteIdleLocked is SiteIdle for callers that hold the lock.
func (r *Reconciler) siteIdleLocked(site string) bool {
	return r.dirty[site] == nil && !r.publishing[site]
}
