package bridge

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/workqueue"

	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/writeback"
	"github.com/petiole-io/petiole/streams"
)

// unknownNodeTries is the number of tries for a report about an unregistered node, which take
// about two minutes.
const unknownNodeTries = 30

// reportWriter writes reports to the API server.
type reportWriter interface {
	// Write writes one report. It returns nil if the API server has the reported state.
	Write(ctx context.Context, r writeback.Report) error
	// Exists reports whether the object of a report exists in the API.
	Exists(r streams.Ref) bool
	// Owns reports whether the object of a report exists and is bound to a node of the site.
	Owns(site string, ref streams.Ref) bool
}

// dispatcher has the newest report about each object written to the API server, and written
// again if something else overwrote it while the node was alive. One worker at a time handles
// an object.
type dispatcher struct {
	writer   reportWriter
	reports  *reports
	consumer *reportConsumer
	log      *zap.Logger
	count    *counters
	queue    workqueue.TypedRateLimitingInterface[reportKey]
	outage   *outage
	now      func() time.Time
}

// run writes reports until ctx ends.
func (d *dispatcher) run(ctx context.Context, workers int) {
	var wg sync.WaitGroup
	wg.Go(func() {
		<-ctx.Done()
		d.queue.ShutDown()
	})
	for range workers {
		wg.Go(func() {
			for k, down := d.queue.Get(); !down; k, down = d.queue.Get() {
				d.process(ctx, k)
				d.queue.Done(k)
			}
		})
	}
	wg.Wait()
}

// objectChanged queues the reports about an object.
func (d *dispatcher) objectChanged(o kube.Key) {
	for _, k := range d.reports.ofObject(o) {
		d.queue.Add(k)
	}
}

// nodesAlive queues the reports about nodes that are alive again: the nodes first, then their
// pods.
func (d *dispatcher) nodesAlive(site string, nodes []string) {
	keys := slices.DeleteFunc(d.reports.ofSite(site), func(k reportKey) bool { return !slices.Contains(nodes, k.ref.Node) })
	slices.SortFunc(keys, func(a, b reportKey) int { return kube.KeyOf(a.ref).Rank() - kube.KeyOf(b.ref).Rank() })
	for _, k := range keys {
		d.queue.Add(k)
	}
}

func (d *dispatcher) process(ctx context.Context, k reportKey) {
	r := d.reports.get(k)
	if r == nil {
		d.queue.Forget(k)
		return
	}
	err := d.writer.Write(ctx, writeback.Report{Site: k.site, Message: r.msg, New: r.pending})
	if ctx.Err() != nil {
		return
	}
	tries := d.queue.NumRequeues(k)
	if errors.Is(err, writeback.ErrNodeNotRegistered) && tries >= unknownNodeTries || d.forbiddenTooLong(k, r, err) {
		err = fmt.Errorf("%w: %w", kube.ErrRefused, err)
	}
	switch {
	case err == nil:
		d.accepted(k, r)
	case errors.Is(err, writeback.ErrNodeNotAlive):
		d.queue.Forget(k)
		d.consumer.ack(d.reports.waitForNode(k, r.seq))
	case errors.Is(err, kube.ErrGone):
		d.count.dropped.Add(1)
		d.finish(k, r)
		d.consumer.markObsolete(k.site, obsolete{seq: r.seq})
	case errors.Is(err, kube.ErrRefused):
		d.quarantine(ctx, k, r, err)
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err):
		// Another writer was faster, or the informer lags: the report is tried again when the
		// object's change arrives, or after a delay.
		d.count.conflicts.Add(1)
		d.queue.AddRateLimited(k)
	default:
		if !errors.Is(err, writeback.ErrNodeNotRegistered) && !errors.Is(err, kube.ErrForbidden) {
			d.outage.report(err)
		}
		d.queue.AddRateLimited(k)
	}
}

func (d *dispatcher) accepted(k reportKey, r *report) {
	d.outage.report(nil)
	d.queue.Forget(k)
	if r.pending {
		d.count.accepted.Add(1)
	}
	d.consumer.ack(r.delivered)
	if isState(r.msg) {
		d.reports.resolve(k, r.seq, false)
		return
	}
	d.reports.resolve(k, r.seq, true)
	if !isRetained(r.msg) {
		d.consumer.markObsolete(k.site, obsolete{seq: r.seq, afterFloor: true})
	}
}

// finish acknowledges and removes a report.
func (d *dispatcher) finish(k reportKey, r *report) {
	d.queue.Forget(k)
	d.consumer.ack(r.delivered)
	d.reports.resolve(k, r.seq, true)
}

func (d *dispatcher) quarantine(ctx context.Context, k reportKey, r *report, reason error) {
	if r.pending {
		subject := streams.ReportedSubject(k.site, k.ref)
		msg := r.msg.Encode(subject)
		header, data := msg.Header, msg.Data
		if r.delivered != nil {
			header, data = r.delivered.Headers(), r.delivered.Data()
		}
		if err := streams.QuarantineMessage(ctx, d.consumer.hub.JS, streams.Quarantine, subject, header, data, reason); err != nil {
			d.outage.report(err)
			d.queue.AddRateLimited(k)
			return
		}
		d.consumer.countQuarantined(k.site, reasonRefused)
		d.log.Warn("report quarantined", zap.String("site", k.site), zap.Stringer("object", k.ref), zap.Uint64("seq", r.seq), zap.Error(reason))
	}
	d.finish(k, r)
	if !isRetained(r.msg) || !d.writer.Owns(k.site, k.ref) {
		d.consumer.markObsolete(k.site, obsolete{seq: r.seq})
	}
}

// maxForbidden is the time for which a report that the API server forbids is retried before it
// counts as refused. A kube-apiserver that has just started forbids everything, except to
// administrators, until it has read its roles.
const maxForbidden = time.Minute

// forbiddenTooLong takes the result of a try. It reports whether the API server has forbidden
// the report at every try for maxForbidden.
func (d *dispatcher) forbiddenTooLong(k reportKey, r *report, err error) bool {
	if !errors.Is(err, kube.ErrForbidden) {
		d.reports.forbidden(k, r.seq, time.Time{})
		return false
	}
	return d.now().Sub(d.reports.forbidden(k, r.seq, d.now())) >= maxForbidden
}
