package bridge

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
)

const (
	// denialPatience is for how long a report is tried on that the API server forbids
	// before that counts as a refusal. A kube-apiserver that has just been started forbids
	// everything to everybody but its administrators until it has read its roles.
	denialPatience = time.Minute
	// denialHold is for how long such a report is kept unacknowledged, which takes a place
	// among the few that the consumer has under way for all sites.
	denialHold = 2 * time.Second
)

// denied takes in the outcome of a try, and says whether the API server has forbidden the
// report at every try for so long that it is refused.
func (w *writeback) denied(ctx context.Context, k reportKey, r *report, err error) bool {
	if !errors.Is(err, errDenied) {
		w.reports.deny(k, r.seq, time.Time{})
		return false
	}
	d := w.now().Sub(w.reports.deny(k, r.seq, w.now()))
	if d >= denialHold && d < denialPatience && r.from != nil {
		w.release(ctx, k, r)
	}
	return d >= denialPatience
}

// release acknowledges a report that goes on waiting, when the bridge's bucket says that
// it is to be read again.
func (w *writeback) release(ctx context.Context, k reportKey, r *report) {
	if err := w.intake.put(ctx, k.site, r.seq); err != nil {
		w.log.Debug("report not put off, it goes on waiting", zap.String("site", k.site), zap.Error(err))
		return
	}
	if from := w.reports.release(k, r.seq); from != nil {
		w.intake.ack(from)
	}
}
