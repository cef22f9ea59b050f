package check

import (
	"fmt"
	"strings"
)

// order judges the objects that the sites are seen to hold: I1 (no object goes back), I3 (what was
// deleted does not come back), I5 (a recreated object comes after its predecessor has
// gone), I6 (no site holds another's objects) and I9 (a repetition changes nothing).
//
// A counter that only grows is written with every version, so that two versions compare.
// When the storage of the API server is replaced by an older one, versions go back
// lawfully, once for each replacement, to exactly what was there.
type order struct {
	restores []restore
	sites    map[string]*siteOrder
}

// restore is one replacement of the storage.
type restore struct {
	counter int64
	objects map[string]int64
}

// siteOrder holds the objects that one site was seen to hold since its store was created or
// replaced.
type siteOrder struct {
	present map[string]string // object → UID
	known   map[string]*lifetime
}

// lifetime is one object, from its creation to its deletion.
type lifetime struct {
	counter int64
	// epoch is the least number of restores that explains what was seen.
	epoch  int
	gone   bool
	digest string
}

func newOrder() *order { return &order{sites: map[string]*siteOrder{}} }

func (o *order) observe(e Event) []Violation {
	switch e.Kind {
	case Restored:
		o.restores = append(o.restores, restore{e.Counter, e.Objects})
	case StoreLost:
		delete(o.sites, e.Site)
	case Seen:
		return o.seen(e)
	case Gone:
		s := o.site(e.Site)
		if s.present[e.Object] == e.UID {
			delete(s.present, e.Object)
		}
		if l := s.known[e.UID]; l != nil {
			l.gone, l.digest = true, ""
		}
	}
	return nil
}

func (o *order) finish() []Violation { return nil }

func (o *order) site(name string) *siteOrder {
	s := o.sites[name]
	if s == nil {
		s = &siteOrder{present: map[string]string{}, known: map[string]*lifetime{}}
		o.sites[name] = s
	}
	return s
}

func (o *order) seen(e Event) []Violation {
	s := o.site(e.Site)
	var found []Violation
	if e.Owner != "" && e.Owner != e.Site {
		found = append(found, violation("I6", "%s holds %s of %s", e.Site, e.Object, e.Owner)...)
	}
	was, there := s.present[e.Object]
	if there && was != e.UID && !strings.HasPrefix(e.Object, "nodes ") {
		found = append(found, violation("I5", "%s shows %s of UID %s before that of UID %s has gone", e.Site, e.Object, e.UID, was)...)
	}
	s.present[e.Object] = e.UID
	l := s.known[e.UID]
	if l == nil {
		s.known[e.UID] = &lifetime{counter: e.Counter, epoch: o.epochOf(e.Counter), digest: e.Digest}
		return found
	}
	if there && was == e.UID && !e.Listed && l.digest == e.Digest {
		found = append(found, violation("I9", "%s reports a change of %s (counter %d) that is none", e.Site, e.Object, e.Counter)...)
	}
	l.digest = e.Digest
	switch {
	case l.gone && !e.Loose:
		if j, ok := o.restoredTo(e, l.epoch); ok {
			l.epoch = j
		} else {
			found = append(found, violation("I3", "%s shows %s of UID %s (counter %d) again after it was gone", e.Site, e.Object, e.UID, e.Counter)...)
		}
	case e.Counter < l.counter:
		if j, ok := o.restoredTo(e, l.epoch); ok {
			l.epoch = j
		} else {
			found = append(found, violation("I1", "%s shows %s of UID %s with counter %d after %d", e.Site, e.Object, e.UID, e.Counter, l.counter)...)
		}
	}
	l.gone, l.counter, l.epoch = false, e.Counter, max(l.epoch, o.epochOf(e.Counter))
	return found
}

// epochOf returns the number of restores before a counter was assigned.
func (o *order) epochOf(counter int64) int {
	n := 0
	for _, r := range o.restores {
		if counter > r.counter {
			n++
		}
	}
	return n
}

// restoredTo finds the first restore after epoch that brought back the object. What a
// site shows of it was restored or written later.
func (o *order) restoredTo(e Event, epoch int) (int, bool) {
	for j := epoch; j < len(o.restores); j++ {
		if c, ok := o.restores[j].objects[e.UID]; ok && e.Counter >= c {
			return j + 1, true
		}
	}
	return 0, false
}

func violation(invariant, format string, args ...any) []Violation {
	return []Violation{{Invariant: invariant, What: fmt.Sprintf(format, args...)}}
}
