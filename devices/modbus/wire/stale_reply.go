package wire

import (
	"errors"
	"time"
)

// awaitStale waits for late replies that may still come, and drops them: those to requests
// of the line's last user, and that to an earlier request to the same unit. On a line
// without transaction numbers they look like the reply to the next request. If that of the
// unit does not come, awaitStale sets maybeStale.
func (t *Transport) awaitStale(request []byte) error {
	t.maybeStale = false
	if t.framing.numbered() {
		if t.datagram {
			t.buf = t.buf[:0]
		}
		return nil
	}
	quiet := max(t.silence, minQuiet)
	for others := t.firstOpened.Add(t.MaxTimeout); time.Now().Before(others); {
		if _, err := t.discardUntil(others, quiet); err != nil {
			return err
		}
	}
	if until, owes := t.staleUntil[request[0]]; owes {
		came, err := t.discardUntil(until, quiet)
		if err != nil {
			return err
		}
		t.maybeStale = !came
	}
	t.buf = t.buf[:0]
	return t.drain()
}

// lastReply checks whether a second reply follows one that may be stale. A unit replies to
// its requests in order, so that the last reply belongs to request. If none follows, a read
// is sent again, since the unit may not have replied to it at all; a write is not, because
// its reply echoes the request.
func (t *Transport) lastReply(request, reply []byte, line time.Duration) ([]byte, error) {
	if err := t.conn.SetDeadline(time.Now().Add(t.Grace + line)); err != nil {
		return nil, t.ioError(err)
	}
	switch last, err := t.awaitReply(request); {
	case err == nil:
		return last, nil
	case errors.Is(err, ErrTimeout) && isRead(request[1]):
		return t.resend(request, line)
	case errors.Is(err, ErrTimeout):
		return reply, nil
	default:
		return nil, err
	}
}

// resend sends a request a second time and waits for its reply.
func (t *Transport) resend(request []byte, line time.Duration) ([]byte, error) {
	t.Last.Begin = time.Now()
	if err := t.write(request, t.Last.Begin.Add(t.Timeout+line)); err != nil {
		return nil, err
	}
	if err := t.skipEcho(request); err != nil {
		return nil, err
	}
	return t.awaitReply(request)
}

// discardUntil drops received bytes until a time or, once some came, until the line has
// been silent for quiet. It gives up on a line that is never silent. Came reports whether
// there were any.
func (t *Transport) discardUntil(until time.Time, quiet time.Duration) (came bool, err error) {
	for limit := until.Add(t.MaxTimeout); time.Now().Before(until) && until.Before(limit.Add(quiet)); {
		if err := t.conn.SetDeadline(until); err != nil {
			return came, t.ioError(err)
		}
		err := t.receive()
		t.buf = t.buf[:0]
		switch {
		case errors.Is(err, ErrTimeout):
			return came, nil
		case err != nil:
			return came, err
		}
		came, until = true, time.Now().Add(quiet)
	}
	return came, nil
}
