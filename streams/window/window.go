// Package window bounds the bytes in flight on a line of unknown and changing rate
// (docs/decisions/0017-slow-lines.md).
//
// It is arithmetic only: it sends nothing, reads no clock and is not safe for concurrent use. The
// replicator, the forwarders and the tunnels have a Window for each line and direction.
package window

import "time"

const (
	// First is the window on an unknown line: it takes 7 s at 9.6 kbit/s, less than the
	// timeout of the leaf's pings. minimum is the smallest window.
	First   = 8 << 10
	minimum = 2 << 10
	// maxRoundTrip is the longest round trip of a satellite.
	maxRoundTrip = 800 * time.Millisecond
)

// Window bounds the bytes in flight in one direction by what the line has carried: as many as it
// carries in a given time. Answers, pings and acknowledgements wait no longer than that behind
// them. A larger message is sent alone.
//
// An unknown line is tried as in TCP (RFC 5681, slow start): each transfer that fills the window
// and is fast enough doubles it. A slow one reduces it at once. The zero value is not usable:
// use New.
type Window struct {
	bytes, first, most int
	// base is how long the bytes in flight may take on a line without delay, target on this one.
	base, target time.Duration
	// progressed is set if something has arrived since StartSession, or there was nothing to
	// carry.
	progressed bool
}

// New returns the window of an unknown line, which grows up to most bytes and carries them
// within target.
func New(most int, target time.Duration) Window {
	return Window{bytes: First, first: First, most: most, base: target, target: target, progressed: true}
}

// NewShared returns the window of an unknown line for one of several that have bytes in flight in
// the same direction. It begins with few bytes.
func NewShared(most int, target time.Duration) Window {
	return Window{bytes: minimum, first: minimum, most: most, base: target, target: target, progressed: true}
}

// Bytes returns how many bytes may be in flight.
func (w *Window) Bytes() int { return w.bytes }

// Target returns how long they may take.
func (w *Window) Target() time.Duration { return w.target }

// SetRoundTrip takes note of how long a message and its answer take on an idle line: more must be in
// flight then, so that the line is not idle until the next request arrives. What looks longer than
// maxRoundTrip is a queue.
func (w *Window) SetRoundTrip(rtt time.Duration) { w.target = w.base + 2*min(rtt, maxRoundTrip) }

// RoundTrip returns what SetRoundTrip was told, at most the longest round trip of a satellite.
func (w *Window) RoundTrip() time.Duration { return (w.target - w.base) / 2 }

// Progressed takes note that the line was not stuck, although what it carried says nothing about
// its rate.
func (w *Window) Progressed() { w.progressed = true }

// StartSession starts a session, whose line may be another one, so that what was learned of a
// faster line does not count. If the session before had a backlog and carried nothing, its
// window was too large.
func (w *Window) StartSession(backlog bool) {
	w.bytes = min(w.bytes, w.first)
	if !w.progressed {
		w.bytes = max(minimum, w.bytes/2)
	}
	w.progressed = !backlog
}

// Record takes note that the line carried a number of bytes, one after the other, in a given
// time.
func (w *Window) Record(bytes int, took time.Duration) {
	w.progressed = true
	fit := w.most
	if took > 0 {
		fit = int(min(float64(w.most), float64(bytes)*float64(w.target)/float64(took)))
	}
	switch {
	case took > w.target:
		w.bytes = max(minimum, min(fit, w.bytes))
	case bytes >= w.bytes/2: // less than that tells about the delay, not about the rate
		w.bytes = max(minimum, min(fit, 2*w.bytes))
	}
}
