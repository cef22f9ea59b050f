package bridge

import (
	"errors"
	"time"
)

// denialPatience is for how long a report is tried on that the API server forbids before
// that counts as a refusal. A kube-apiserver that has just been started forbids everything
// to everybody but its administrators until it has read its roles.
const denialPatience = time.Minute

// denied takes in the outcome of a try, and reports whether the API server has forbidden
// the report at every try for so long that it is refused.
func (w *writeback) denied(k reportKey, r *report, err error) bool {
	if !errors.Is(err, errDenied) {
		w.reports.deny(k, r.seq, time.Time{})
		return false
	}
	return w.now().Sub(w.reports.deny(k, r.seq, w.now())) >= denialPatience
}
