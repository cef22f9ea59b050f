package check

import "strconv"

// reports judges the status of the sites' pods at the API server: I12 (a status never goes
// back to an older observation), I13 (a status is of the pod with that UID) and I14 (an
// ended pod stays ended, restarts never fall).
type reports struct {
	pods map[string]*podStatus
	// lawful counts, for each site, the events that may set its pods back: a store that was rolled
	// back, and for all sites a restored API server.
	lawful   map[string]int
	restores int
}

type podStatus struct {
	n, restarts int64
	phase       string
	lawful      int
}

func newReports() *reports { return &reports{pods: map[string]*podStatus{}, lawful: map[string]int{}} }

func (r *reports) finish() []Violation { return nil }

func (r *reports) observe(e Event) []Violation {
	switch e.Kind {
	case Restored:
		r.restores++
	case StoreLost:
		r.lawful[e.Site]++
	case Status:
		return r.status(e)
	}
	return nil
}

func (r *reports) status(e Event) []Violation {
	if e.About != "" && e.About != e.UID {
		return violation("I13", "the API shows for %s of UID %s a status of UID %s", e.Object, e.UID, e.About)
	}
	lawful := r.restores + r.lawful[e.Site]
	was := r.pods[e.UID]
	if was == nil || was.lawful != lawful {
		// The first look after a setback says what there is now.
		r.pods[e.UID] = &podStatus{e.N, e.Restarts, e.Phase, lawful}
		return nil
	}
	var found []Violation
	if e.N < was.n {
		found = append(found, violation("I12", "the API shows status %d of %s after %d", e.N, e.Object, was.n)...)
	}
	if ended(was.phase) && e.Phase != was.phase {
		found = append(found, violation("I14", "%s went from %s to %q", e.Object, was.phase, e.Phase)...)
	}
	if e.Restarts < was.restarts {
		found = append(found, violation("I14", "restarts of %s fell from %s to %s", e.Object, strconv.FormatInt(was.restarts, 10), strconv.FormatInt(e.Restarts, 10))...)
	}
	was.n, was.restarts, was.phase = e.N, e.Restarts, e.Phase
	return found
}

func ended(phase string) bool { return phase == "Succeeded" || phase == "Failed" }
