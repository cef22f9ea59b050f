package reports

import (
	"sync"
	"time"

	"github.com/petiole-io/petiole/devices"
)

// Last is the last report of a point.
type Last struct {
	Reading  devices.Reading
	Observed string // the desired value that the mapper has
	at       time.Time
	// repeats reports that the mapper reports unchanged values, too.
	repeats bool
}

// history has the last report of each point. It is safe for concurrent use.
type history struct {
	points []devices.Point

	mu       sync.Mutex
	last     []Last
	watchers map[int]chan Last
}

func newHistory(points []devices.Point) history {
	return history{points: points, last: make([]Last, len(points)), watchers: map[int]chan Last{}}
}

// Last returns the last report of a point, and whether it is recent enough to be its present
// value.
func (h *history) Last(point int) (l Last, fresh bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l = h.last[point]
	return l, l.Reading.Quality == devices.Good && time.Since(l.at) < 2*h.points[point].Cycle+time.Second
}

// record records a report and notifies watchers.
func (h *history) record(r Report) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, d := range r.observed {
		h.last[i].Observed = d
	}
	for _, reading := range r.readings {
		s := &h.last[reading.Point]
		cycle := h.points[reading.Point].Cycle
		if reading.Quality == devices.Good && reading.Value == s.Reading.Value && r.at.Sub(s.at) < 3*cycle {
			s.repeats = true
		}
		s.Reading, s.at = reading, r.at
	}
	reported := map[int]bool{}
	for _, reading := range r.readings {
		reported[reading.Point] = true
		h.notify(reading.Point, h.last[reading.Point])
	}
	for i, d := range r.observed {
		if !reported[i] { // the mapper has the desired value and nothing to report
			h.notify(i, Last{Observed: d, at: r.at})
		}
	}
}

// notify sends a report to the watcher of its point. A newer one replaces an older one.
func (h *history) notify(point int, s Last) {
	w := h.watchers[point]
	if w == nil {
		return
	}
	select {
	case <-w:
	default:
	}
	w <- s
}

// Watch returns a channel with the reports of a point until release is called.
func (h *history) Watch(point int) (reports <-chan Last, release func()) {
	w := make(chan Last, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watchers[point] = w
	return w, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.watchers, point)
	}
}

// silent reports, once, that the reports of a device have stopped. It returns false for a
// device with a value that the mapper reports only after changes.
func (h *history) silent(now time.Time, atLeast time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	heard := false
	for i := range h.last {
		s := &h.last[i]
		if s.at.IsZero() {
			continue
		}
		heard = true
		if !s.repeats || now.Sub(s.at) <= max(5*h.points[i].Cycle, atLeast) {
			return false
		}
	}
	if !heard {
		return false
	}
	for i := range h.last {
		h.last[i] = Last{}
	}
	return true
}
