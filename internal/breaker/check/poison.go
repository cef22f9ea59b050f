package check

import (
	"maps"
	"slices"
)

// poison judges I10: a message that cannot be read is found in quarantine.
type poison struct{ waiting map[string]Event }

func newPoison() *poison { return &poison{waiting: map[string]Event{}} }

func (p *poison) observe(e Event) []Violation {
	switch e.Kind {
	case Poisoned:
		p.waiting[e.Subject] = e
	case Quarantined:
		delete(p.waiting, e.Subject)
	case StoreLost:
		// The content of the quarantine may be lost, too.
		maps.DeleteFunc(p.waiting, func(_ string, w Event) bool { return w.Site == e.Site })
	}
	return nil
}

func (p *poison) finish() []Violation {
	var all []Violation
	for _, subject := range slices.Sorted(maps.Keys(p.waiting)) {
		all = append(all, violation("I10", "the unreadable message on %s of %s is not in quarantine", subject, p.waiting[subject].Site)...)
	}
	return all
}

// Unquarantined returns the subjects of unreadable messages that were not found yet, by
// site.
func (j *Judge) Unquarantined() map[string][]string {
	out := map[string][]string{}
	for _, c := range j.checkers {
		if p, ok := c.(*poison); ok {
			for subject, e := range p.waiting {
				out[e.Site] = append(out[e.Site], subject)
			}
		}
	}
	return out
}
