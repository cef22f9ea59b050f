package host

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/internal/desired"
)

// writeResult is the result of a write.
type writeResult struct {
	session  uint64
	property string
	// desired is the desired value that was written; execution is set for a command's write.
	desired   desired.State
	execution *execution
	outcome   devices.Outcome
	err       error
}

// work starts the next write that is due: that of a command or, after saving the state, of a
// desired value. At most one write runs at a time, outside of the worker's goroutine.
func (w *worker) work(ctx context.Context) {
	w.commands.expire(time.Now(), w.loaded)
	if w.writing {
		return
	}
	// While there is a target, the newest definition has not been reconciled yet.
	if w.loaded && w.target == nil && w.commands.advance(ctx) {
		return
	}
	now := time.Now()
	if !w.loaded || !w.desired.isDue(now) {
		return
	}
	if w.needsSave {
		// Save before the write, so that a restart finds that it may have happened.
		if err := w.save(ctx); err != nil {
			w.desired.postpone()
			w.log.Warn("save state of device, desired values wait", zap.Error(err))
			return
		}
	}
	if !w.desired.advance(ctx, now) && w.needsSave {
		w.desired.schedule(now) // a value was concluded without a write
	}
}

// write starts a write by the session, which ends at limit. The result goes to
// w.writeResults. The returned function keeps the write from beginning.
func (w *worker) write(ctx context.Context, point int, value string, limit time.Time, job writeResult) context.CancelFunc {
	w.writing = true
	r := w.session
	job.session = r.number
	wctx, cancel := context.WithDeadline(ctx, limit)
	go func() {
		// The end of the session ends the write, too.
		defer cancel()
		go func() {
			select {
			case <-r.done:
				cancel()
			case <-wctx.Done():
			}
		}()
		write := r.session.Write
		if job.execution != nil {
			write = r.session.Command
		}
		job.outcome, job.err = write(wctx, point, value)
		w.writeResults <- job
	}()
	return cancel
}

// handleWriteResult handles the result of a write.
func (w *worker) handleWriteResult(ctx context.Context, r writeResult) {
	w.writing = false
	if r.execution != nil {
		w.commands.written(r, w.sessionReplaced(ctx, r))
		w.changed()
		return
	}
	w.desired.written(r, w.sessionReplaced(ctx, r))
}

// unreachable reports whether a retry may help after an error.
func unreachable(err error) bool {
	return errors.Is(err, devices.ErrUnreachable) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// sessionReplaced reports whether the session of a write was replaced or stopped.
func (w *worker) sessionReplaced(ctx context.Context, r writeResult) bool {
	return ctx.Err() != nil || w.session == nil || w.session.number != r.session
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
