package antientropy

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/bridge/requests"
	"github.com/petiole-io/petiole/streams/inventory"
)

// repairSpacing is the minimum time between two repairs of a site.
const repairSpacing = 2 * time.Second

// Desired knows what was published for the sites, and publishes it again.
type Desired interface {
	SiteExists(site string) bool
	// Compare compares a site's inventory with what was published for it.
	Compare(site string, q inventory.Query) (inventory.Answer, inventory.Difference, error)
	// PublishAgain schedules the repair of a difference. It returns false if too much waits for
	// the site.
	PublishAgain(site string, d inventory.Difference) bool
}

// Counters count the queries that were answered and those that found a difference.
type Counters struct{ Checks, Mismatches atomic.Uint64 }

// Answerer answers the sites' comparisons of their inventories and repairs the differences.
type Answerer struct {
	Desired  Desired
	States   *States
	Resyncer *Resyncer
	Counters *Counters
	Log      *zap.Logger
}

// Handler returns the handler of inventory.Request.
func (a *Answerer) Handler() requests.Handler {
	return requests.Handler{
		Workers: 2, Backlog: 256, PerSite: 2, MaxBytes: inventory.MaxQuery,
		Answer: func(_ context.Context, site string, data []byte) any { return a.answer(site, data) },
		Refuse: func(reason string) any {
			return inventory.Answer{State: inventory.Behind, Error: reason}
		},
	}
}

func (a *Answerer) answer(site string, data []byte) inventory.Answer {
	if !a.Desired.SiteExists(site) {
		return inventory.Answer{State: inventory.Behind, Error: fmt.Sprintf("there is no Site %s", site)}
	}
	q, err := inventory.DecodeQuery(data)
	if err != nil {
		return inventory.Answer{State: inventory.Behind, Error: err.Error()}
	}
	answer, d, err := a.Desired.Compare(site, q)
	if err != nil {
		return inventory.Answer{State: inventory.Behind, Error: err.Error()}
	}
	if answer.State == inventory.Repairing {
		answer = a.repair(site, d)
	}
	if answer.State == inventory.Equal || answer.State == inventory.Repairing {
		a.States.Checked(site, time.Now(), answer.State)
	}
	a.Counters.Checks.Add(1)
	return answer
}

// repair publishes missing objects again, and tombstones for extra ones. If that did not help,
// at every second mismatch in a row, it also requests a full resync of the site.
func (a *Answerer) repair(site string, d inventory.Difference) inventory.Answer {
	now := time.Now()
	if last := a.States.Get(site); last.Outcome == inventory.Repairing && now.Sub(last.LastCheck) < repairSpacing {
		return inventory.Answer{State: inventory.Behind}
	}
	if !a.Desired.PublishAgain(site, d) {
		return inventory.Answer{State: inventory.Behind, Error: "too many tombstones wait for the site"}
	}
	a.Counters.Mismatches.Add(1)
	row := a.States.Mismatch(site)
	a.Log.Warn("site differs from what was published, repairing", zap.String("site", site),
		zap.Int("missing", len(d.Missing)), zap.Int("extra", len(d.Extra)), zap.Int("inRow", row))
	if row%2 == 0 {
		a.Resyncer.MismatchRepeated(site)
	}
	return inventory.Answer{State: inventory.Repairing, Published: d.Size()}
}
