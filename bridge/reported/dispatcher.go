package reported

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/writeback"
	"github.com/petiole-io/petiole/streams"
)

// unknownNodeTries is the number of tries for a report about an unregistered node, which take
// about two minutes.
const unknownNodeTries = 30

// dispatcher has the newest report about each object written to the API server, and written
// again if something else overwrote it while the node was alive. One worker at a time handles
// an object.
type dispatcher struct {
	Config
	reports  *reports
	rejected *quarantine
	// obsolete schedules the removal of a report, retain takes note of one that stays although it
	// is not written; resume is called when a report of the site no longer waits.
	obsolete, retain func(k Key, seq uint64)
	resume           func(site string)
}

// run writes reports until ctx ends.
func (d *dispatcher) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() {
		<-ctx.Done()
		d.Queue.ShutDown()
	})
	for range d.Workers {
		wg.Go(func() {
			for k, down := d.Queue.Get(); !down; k, down = d.Queue.Get() {
				d.process(ctx, k)
				d.Queue.Done(k)
			}
		})
	}
	wg.Wait()
}

// process writes one report and decides what becomes of it.
func (d *dispatcher) process(ctx context.Context, k Key) {
	r := d.reports.get(k)
	if r == nil {
		d.Queue.Forget(k)
		return
	}
	if wait := d.Limits.delay(k, r); wait > 0 {
		d.Queue.AddAfter(k, wait)
		return
	}
	err := d.Writer.Write(ctx, writeback.Report{Site: k.Site, Message: r.msg, New: r.pending})
	if ctx.Err() != nil {
		return
	}
	tries := d.Queue.NumRequeues(k)
	if errors.Is(err, writeback.ErrNodeNotRegistered) && tries >= unknownNodeTries || d.forbiddenTooLong(k, r, err) {
		err = fmt.Errorf("%w: %w", kube.ErrRefused, err)
	}
	switch {
	case err == nil:
		d.accepted(k, r)
	case errors.Is(err, writeback.ErrNodeNotAlive):
		d.Queue.Forget(k)
		d.reports.waitForNode(k, r.seq)
		d.resume(k.Site)
	case errors.Is(err, kube.ErrGone):
		d.Counters.Dropped.Add(1)
		d.finish(k, r)
		d.obsolete(k, r.seq)
	case errors.Is(err, kube.ErrRefused):
		d.quarantine(ctx, k, r, err)
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err):
		// Another writer was faster, or the informer lags: the report is tried again when the
		// object's change arrives, or after a delay.
		d.Counters.Conflicts.Add(1)
		d.Queue.AddRateLimited(k)
	default:
		if !errors.Is(err, writeback.ErrNodeNotRegistered) && !errors.Is(err, kube.ErrForbidden) {
			d.Report(err)
		}
		d.Queue.AddRateLimited(k)
	}
}

func (d *dispatcher) accepted(k Key, r *report) {
	d.Report(nil)
	d.Queue.Forget(k)
	if r.pending {
		d.Counters.Accepted.Add(1)
	}
	d.reports.resolve(k, r.seq, !isState(r.msg))
	d.resume(k.Site)
	if !isRetained(r.msg) {
		d.obsolete(k, r.seq)
	}
}

// finish removes a report.
func (d *dispatcher) finish(k Key, r *report) {
	d.Queue.Forget(k)
	d.reports.resolve(k, r.seq, true)
	d.resume(k.Site)
}

func (d *dispatcher) quarantine(ctx context.Context, k Key, r *report, reason error) {
	if r.pending {
		subject := streams.ReportedSubject(k.Site, k.Ref)
		msg := r.msg.Encode(subject)
		if err := d.rejected.store(ctx, k.Site, msg, reason); err != nil {
			d.Report(err)
			d.Queue.AddRateLimited(k)
			return
		}
		d.countQuarantined(k.Site, reasonRefused)
		d.Log.Warn("report quarantined", zap.String("site", k.Site), zap.Stringer("object", k.Ref), zap.Uint64("seq", r.seq), zap.Error(reason))
	}
	d.finish(k, r)
	if isRetained(r.msg) && d.Writer.Owns(k.Site, k.Ref) {
		d.retain(k, r.seq)
	} else {
		d.obsolete(k, r.seq)
	}
}

// maxForbidden is the time for which a report that the API server forbids is retried before it
// counts as refused. A kube-apiserver that has just started forbids everything, except to
// administrators, until it has read its roles.
const maxForbidden = time.Minute

// forbiddenTooLong takes the result of a try. It reports whether the API server has forbidden
// the report at every try for maxForbidden.
func (d *dispatcher) forbiddenTooLong(k Key, r *report, err error) bool {
	if !errors.Is(err, kube.ErrForbidden) {
		d.reports.forbidden(k, r.seq, time.Time{})
		return false
	}
	return d.now().Sub(d.reports.forbidden(k, r.seq, d.now())) >= maxForbidden
}
