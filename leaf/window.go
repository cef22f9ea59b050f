package leaf

import "time"

const (
	// firstWindow is how many bytes are sent on a line that nothing is known of: 7 s of
	// 9.6 kbit/s, after which the leaf's pings have not given up yet. minWindow is the least.
	firstWindow = 8 << 10
	minWindow   = 2 << 10
)

// window bounds the bytes that are under way in one direction, by what the line has
// carried: about as many as it takes a given time for. What answers, pings and acknowledgements
// wait behind stays as short. A message that is larger goes alone.
//
// A line that nothing is known of is tried as TCP does it (RFC 5681, slow start): each
// transfer that fills the window and is quick doubles it. A slow one brings it down at once.
// The zero value is not usable: see newWindow.
type window struct {
	bytes, most int
	// target is how long the bytes under way may take.
	target time.Duration
	// carried: something has arrived since begin, or there was nothing to carry.
	progressed bool
}

func newWindow(most int, target time.Duration) window {
	return window{bytes: firstWindow, most: most, target: target, progressed: true}
}

// begin is a new session, whose line may be another one: what was learned of a faster one
// does not count. When the session before had a backlog and carried nothing of it, it tried
// too much.
func (w *window) startSession(backlog bool) {
	w.bytes = min(w.bytes, firstWindow)
	if !w.progressed {
		w.bytes = max(minWindow, w.bytes/2)
	}
	w.progressed = !backlog
}

// note takes over that the line carried so many bytes, one after the other, in so long.
func (w *window) record(bytes int, took time.Duration) {
	w.progressed = true
	fit := w.most
	if took > 0 {
		fit = int(min(float64(w.most), float64(bytes)*float64(w.target)/float64(took)))
	}
	switch {
	case took > w.target:
		w.bytes = max(minWindow, min(fit, w.bytes))
	case bytes >= w.bytes/2: // less than that tells about the delay, not about the rate
		w.bytes = max(minWindow, min(fit, 2*w.bytes))
	}
}
