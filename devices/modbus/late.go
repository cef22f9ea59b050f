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
// request after the other, so that the last one is the one that was asked for.
func (w *wire) confirm(request, answer []byte, line time.Duration) ([]byte, error) {
	if err := w.conn.SetDeadline(time.Now().Add(w.grace + line)); err != nil {
		return nil, w.failed(err)
	}
	switch last, err := w.await(request); {
	case err == nil:
		return last, nil
	case errors.Is(err, errTimeout):
		return answer, nil
	default:
		return nil, err
	}
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
