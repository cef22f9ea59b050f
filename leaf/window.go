package leaf

import "time"

const (
	// firstWindow is the window on an unknown line: it takes 7 s at 9.6 kbit/s, less than the
	// timeout of the leaf's pings. minWindow is the smallest window.
	firstWindow = 8 << 10
	minWindow   = 2 << 10
)

// window bounds the bytes in flight in one direction by what the line has carried: as many as it
// carries in a given time. Answers, pings and acknowledgements wait no longer than that behind
// them. A larger message is sent alone.
//
// An unknown line is tried as in TCP (RFC 5681, slow start): each transfer that fills the window
// and is fast enough doubles it. A slow one reduces it at once. The zero value is not usable:
// see newWindow.
type window struct {
	bytes, most int
	// target is how long the bytes in flight may take.
	target time.Duration
	// progressed is set if something has arrived since startSession, or there was nothing to
	// carry.
	progressed bool
}

func newWindow(most int, target time.Duration) window {
	return window{bytes: firstWindow, most: most, target: target, progressed: true}
}

// startSession starts a session, whose line may be another one, so that what was learned of a
// faster line does not count. If the session before had a backlog and carried nothing, its
// window was too large.
func (w *window) startSession(backlog bool) {
	w.bytes = min(w.bytes, firstWindow)
	if !w.progressed {
		w.bytes = max(minWindow, w.bytes/2)
	}
	w.progressed = !backlog
}

// record takes note that the line carried a number of bytes, one after the other, in a given
// time.
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
