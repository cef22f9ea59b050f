package modbus

import (
	"errors"
	"time"
)

// settle makes sure that what comes next is the answer to request, or makes it
// doubtful. An answer without a number that comes too late looks like that to the next
// request of the same unit.
func (w *wire) settle(request []byte) error {
	w.doubtful = false
	if w.framing.numbered() {
		if w.datagram {
			w.buf = w.buf[:0]
		}
		return nil
	}
	if until, owes := w.owed[request[0]]; owes {
		came, err := w.discard(until, max(w.silence, lineSettled))
		if err != nil {
			return err
		}
		w.doubtful = !came
	}
	w.buf = w.buf[:0]
	return w.quieten()
}

// confirm waits whether a doubtful answer is followed by another: a unit answers one
// request after the other, so that the last one is the one that was asked for. A read
// that nothing follows is sent again, because the unit may answer it with nothing at all;
// what was written is not, and its answer says what it is the answer to.
func (w *wire) confirm(request, answer []byte, line time.Duration) ([]byte, error) {
	if err := w.conn.SetDeadline(time.Now().Add(w.grace + line)); err != nil {
		return nil, w.failed(err)
	}
	switch last, err := w.await(request); {
	case err == nil:
		return last, nil
	case errors.Is(err, errTimeout) && isRead(request[1]):
		return w.again(request, line)
	case errors.Is(err, errTimeout):
		return answer, nil
	default:
		return nil, err
	}
}

// again sends a request a second time.
func (w *wire) again(request []byte, line time.Duration) ([]byte, error) {
	w.begin = time.Now()
	if err := w.post(request, w.begin.Add(w.timeout+line)); err != nil {
		return nil, err
	}
	if err := w.unecho(request); err != nil {
		return nil, err
	}
	return w.await(request)
}

// discard drops what comes in until a time, or, once something came, until the line
// has been silent for quiet; came tells that there was something. A line that is never
// silent is not waited for.
func (w *wire) discard(until time.Time, quiet time.Duration) (came bool, err error) {
	for limit := until.Add(w.longest); time.Now().Before(until) && until.Before(limit.Add(quiet)); {
		if err := w.conn.SetDeadline(until); err != nil {
			return came, w.failed(err)
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
