package modbus

import (
	"errors"
	"time"
)

// awaitStale waits for the late reply to an earlier request to the same unit, if one may
// still come, and drops it. On a line without transaction numbers it looks like the reply
// to the next request. If it does not come, awaitStale sets maybeStale.
func (w *wire) awaitStale(request []byte) error {
	w.maybeStale = false
	if w.framing.numbered() {
		if w.datagram {
			w.buf = w.buf[:0]
		}
		return nil
	}
	if until, owes := w.staleUntil[request[0]]; owes {
		came, err := w.discardUntil(until, max(w.silence, minQuiet))
		if err != nil {
			return err
		}
		w.maybeStale = !came
	}
	w.buf = w.buf[:0]
	return w.drain()
}

// lastReply checks whether a second reply follows one that may be stale. A unit replies to
// its requests in order, so that the last reply belongs to request. If none follows, a read
// is sent again, since the unit may not have replied to it at all; a write is not, because
// its reply echoes the request.
func (w *wire) lastReply(request, reply []byte, line time.Duration) ([]byte, error) {
	if err := w.conn.SetDeadline(time.Now().Add(w.grace + line)); err != nil {
		return nil, w.ioError(err)
	}
	switch last, err := w.awaitReply(request); {
	case err == nil:
		return last, nil
	case errors.Is(err, errTimeout) && isRead(request[1]):
		return w.resend(request, line)
	case errors.Is(err, errTimeout):
		return reply, nil
	default:
		return nil, err
	}
}

// resend sends a request a second time and waits for its reply.
func (w *wire) resend(request []byte, line time.Duration) ([]byte, error) {
	w.begin = time.Now()
	if err := w.write(request, w.begin.Add(w.timeout+line)); err != nil {
		return nil, err
	}
	if err := w.skipEcho(request); err != nil {
		return nil, err
	}
	return w.awaitReply(request)
}

// discardUntil drops received bytes until a time or, once some came, until the line has
// been silent for quiet. It gives up on a line that is never silent. Came reports whether
// there were any.
func (w *wire) discardUntil(until time.Time, quiet time.Duration) (came bool, err error) {
	for limit := until.Add(w.maxTimeout); time.Now().Before(until) && until.Before(limit.Add(quiet)); {
		if err := w.conn.SetDeadline(until); err != nil {
			return came, w.ioError(err)
		}
		err := w.receive()
		w.buf = w.buf[:0]
		switch {
		case errors.Is(err, errTimeout):
			return came, nil
		case err != nil:
			return came, err
		}
		came, until = true, time.Now().Add(quiet)
	}
	return came, nil
}
