package check

import "time"

// leaseDuration is the duration of a node's lease (Kubernetes' default); leaseSlack is the time
// between a renewal and the moment when it is seen.
const (
	leaseDuration = 40 * time.Second
	leaseSlack    = 5 * time.Second
)

// leases judges I16: the lease of a node is renewed only if its site was heard within
// the lease's duration.
type leases struct{ since map[string]time.Duration }

func newLeases() *leases { return &leases{since: map[string]time.Duration{}} }

func (l *leases) finish() []Violation { return nil }

func (l *leases) observe(e Event) []Violation {
	switch e.Kind {
	case Unreachable:
		if _, ok := l.since[e.Site]; !ok {
			l.since[e.Site] = e.At
		}
	case Reachable:
		delete(l.since, e.Site)
	case Renewed:
		if at, ok := l.since[e.Site]; ok && e.At-at > leaseDuration+leaseSlack {
			return violation("I16", "the lease of %s's node is renewed %s after the site was cut off", e.Site, (e.At - at).Round(time.Second))
		}
	}
	return nil
}
