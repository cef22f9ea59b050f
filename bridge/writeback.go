package bridge

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/client-go/util/workqueue"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/liveness"
	"github.com/petiole-io/petiole/streams"
)

var (
	// errNodeNotAlive marks a report that must not be written now, because its node sends no
	// heartbeats and what Kubernetes says about the node is correct. It waits for the node.
	errNodeNotAlive = errors.New("node is not alive")
	// errNodeNotRegistered marks a report about a node that has not registered yet.
	errNodeNotRegistered = errors.New("node is not registered")
)

// unknownNodeTries is the number of tries for a report about an unregistered node, which take
// about two minutes.
const unknownNodeTries = 30

// writeback writes the newest report about each object to the API server, and writes it again
// if something else overwrote it while the node was alive. One worker at a time handles an
// object.
type writeback struct {
	clients  *kube.Clients
	cache    objectCache
	publish  *publisher
	liveness *liveness.Tracker
	reports  *reports
	consumer *reportConsumer
	log      *zap.Logger
	count    *counters
	queue    workqueue.TypedRateLimitingInterface[reportKey]
	outage   *outage
	now      func() time.Time
	// deleted holds the nodes that were deleted in the API.
	deleted *deletedNodes
}

// run writes reports until ctx ends.
func (w *writeback) run(ctx context.Context, workers int) {
	var wg sync.WaitGroup
	wg.Go(func() {
		<-ctx.Done()
		w.queue.ShutDown()
	})
	for range workers {
		wg.Go(func() {
			for k, down := w.queue.Get(); !down; k, down = w.queue.Get() {
				w.process(ctx, k)
				w.queue.Done(k)
			}
		})
	}
	wg.Wait()
}

// objectChanged queues the reports about an object.
func (w *writeback) objectChanged(o kube.Key) {
	for _, k := range w.reports.ofObject(o) {
		w.queue.Add(k)
	}
}

// nodesAlive queues the reports about nodes that are alive again: the nodes first, then their
// pods.
func (w *writeback) nodesAlive(site string, nodes []string) {
	keys := slices.DeleteFunc(w.reports.ofSite(site), func(k reportKey) bool { return !slices.Contains(nodes, k.ref.Node) })
	slices.SortFunc(keys, func(a, b reportKey) int { return kube.KeyOf(a.ref).Rank() - kube.KeyOf(b.ref).Rank() })
	for _, k := range keys {
		w.queue.Add(k)
	}
}

func (w *writeback) process(ctx context.Context, k reportKey) {
	r := w.reports.get(k)
	if r == nil {
		w.queue.Forget(k)
		return
	}
	err := w.write(ctx, k, r)
	if ctx.Err() != nil {
		return
	}
	tries := w.queue.NumRequeues(k)
	if errors.Is(err, errNodeNotRegistered) && tries >= unknownNodeTries || w.forbiddenTooLong(k, r, err) {
		err = fmt.Errorf("%w: %w", kube.ErrRefused, err)
	}
	switch {
	case err == nil:
		w.accepted(k, r)
	case errors.Is(err, errNodeNotAlive):
		w.queue.Forget(k)
		w.consumer.ack(w.reports.waitForNode(k, r.seq))
	case errors.Is(err, kube.ErrGone):
		w.count.dropped.Add(1)
		w.finish(k, r)
		w.consumer.markObsolete(k.site, obsolete{seq: r.seq})
	case errors.Is(err, kube.ErrRefused):
		w.quarantine(ctx, k, r, err)
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err):
		// Another writer was faster, or the informer lags: the report is tried again when the
		// object's change arrives, or after a delay.
		w.count.conflicts.Add(1)
		w.queue.AddRateLimited(k)
	default:
		if !errors.Is(err, errNodeNotRegistered) && !errors.Is(err, kube.ErrForbidden) {
			w.outage.report(err)
		}
		w.queue.AddRateLimited(k)
	}
}

func (w *writeback) accepted(k reportKey, r *report) {
	w.outage.report(nil)
	w.queue.Forget(k)
	if r.pending {
		w.count.accepted.Add(1)
	}
	w.consumer.ack(r.delivered)
	if isState(r.msg) {
		w.reports.resolve(k, r.seq, false)
		return
	}
	w.reports.resolve(k, r.seq, true)
	if !isRetained(r.msg) {
		w.consumer.markObsolete(k.site, obsolete{seq: r.seq, afterFloor: true})
	}
}

// finish acknowledges and removes a report.
func (w *writeback) finish(k reportKey, r *report) {
	w.queue.Forget(k)
	w.consumer.ack(r.delivered)
	w.reports.resolve(k, r.seq, true)
}

func (w *writeback) quarantine(ctx context.Context, k reportKey, r *report, reason error) {
	if r.pending {
		subject := streams.ReportedSubject(k.site, k.ref)
		msg := r.msg.Encode(subject)
		header, data := msg.Header, msg.Data
		if r.delivered != nil {
			header, data = r.delivered.Headers(), r.delivered.Data()
		}
		if err := streams.QuarantineMessage(ctx, w.consumer.hub.JS, streams.Quarantine, subject, header, data, reason); err != nil {
			w.outage.report(err)
			w.queue.AddRateLimited(k)
			return
		}
		w.consumer.countQuarantined(k.site, reasonRefused)
		w.log.Warn("report quarantined", zap.String("site", k.site), zap.Stringer("object", k.ref), zap.Uint64("seq", r.seq), zap.Error(reason))
	}
	w.finish(k, r)
	if !isRetained(r.msg) || !w.ownsObject(k) {
		w.consumer.markObsolete(k.site, obsolete{seq: r.seq})
	}
}

// ownsObject reports whether the object of a report exists and is bound to a node of the
// reporting site.
func (w *writeback) ownsObject(k reportKey) bool {
	subject := objectOf(k)
	o := w.cache.Get(subject)
	if o == nil || w.checkOwner(k.site, k.ref.Node) != nil {
		return false
	}
	if subject.BindsToNode() {
		return kube.StringAt(o, "spec", "nodeName") == k.ref.Node
	}
	return subject.Name == k.ref.Node
}

// write writes one report. It returns nil if the API server has the reported state.
func (w *writeback) write(ctx context.Context, k reportKey, r *report) error {
	if err := checkRef(k.ref); err != nil {
		return err
	}
	kind := k.ref.Resource
	if k.ref.Group != "" {
		kind += "." + k.ref.Group
	}
	if kind == "nodes" {
		return w.writeNode(ctx, k, r)
	}
	if err := w.checkOwner(k.site, k.ref.Node); err != nil {
		if isCSINode(k.ref) && errors.Is(err, errNodeNotRegistered) {
			return csiNodeWithoutNode(k, r, err)
		}
		return err
	}
	switch {
	case isCSINode(k.ref) && r.msg.Op == streams.OpDelete:
		return w.deleteCSINode(ctx, k)
	case kind == "pods" && r.msg.Op == streams.OpDelete:
		return w.deletePod(ctx, k, r)
	case kind == "pods" && r.msg.Op == streams.OpCreate:
		return w.createMirrorPod(ctx, k, r)
	case kind == "pods":
		return w.writePodStatus(ctx, k, r)
	case r.msg.Op == streams.OpDelete:
		return fmt.Errorf("%w: a site deletes pods and CSINodes only, not %s", kube.ErrRefused, k.ref)
	case kind == "events", kind == "events.events.k8s.io":
		return w.writeEvent(ctx, k, r)
	case kind == "csinodes."+kube.StorageGroup:
		return w.writeCSINode(ctx, k, r)
	case kind == "devicestatuses."+kube.DeviceGroup:
		return w.writeDeviceStatus(ctx, k, r)
	}
	return fmt.Errorf("%w: %s is not a resource that sites report", kube.ErrRefused, k.ref)
}

// checkRef rejects names that no object can have before they are used in a request.
func checkRef(r streams.Ref) error {
	if r.Node == "" {
		return fmt.Errorf("%w: %s names no node", kube.ErrRefused, r)
	}
	if problems := validation.NameIsDNSSubdomain(r.Node, false); len(problems) > 0 {
		return fmt.Errorf("%w: node %q of %q: %s", kube.ErrRefused, r.Node, r, strings.Join(problems, ", "))
	}
	if r.Namespace != "" {
		if problems := validation.ValidateNamespaceName(r.Namespace, false); len(problems) > 0 {
			return fmt.Errorf("%w: namespace %q of %q: %s", kube.ErrRefused, r.Namespace, r, strings.Join(problems, ", "))
		}
	}
	if problems := content.IsPathSegmentName(r.Name); len(problems) > 0 {
		return fmt.Errorf("%w: name %q of %q: %s", kube.ErrRefused, r.Name, r, strings.Join(problems, ", "))
	}
	return nil
}

// checkOwner returns an error unless the node carries the site's label, which is set when it
// registers.
func (w *writeback) checkOwner(site, node string) error {
	o := w.cache.Get(kube.CoreKey("nodes", "", node))
	if o == nil {
		return fmt.Errorf("%w: %s", errNodeNotRegistered, node)
	}
	if owner := o.GetLabels()[v1alpha1.SiteLabel]; owner != site {
		return fmt.Errorf("%w: node %s belongs to site %q, not to %s", kube.ErrRefused, node, owner, site)
	}
	return nil
}

// nodeAlive reports whether a node is alive, and when it was last seen.
func (w *writeback) nodeAlive(site, node string) (bool, time.Time) {
	return w.liveness.Alive(site, node, time.Now())
}

// maxForbidden is the time for which a report that the API server forbids is retried before it
// counts as refused. A kube-apiserver that has just started forbids everything, except to
// administrators, until it has read its roles.
const maxForbidden = time.Minute

// forbiddenTooLong takes the result of a try. It reports whether the API server has forbidden
// the report at every try for maxForbidden.
func (w *writeback) forbiddenTooLong(k reportKey, r *report, err error) bool {
	if !errors.Is(err, kube.ErrForbidden) {
		w.reports.forbidden(k, r.seq, time.Time{})
		return false
	}
	return w.now().Sub(w.reports.forbidden(k, r.seq, w.now())) >= maxForbidden
}
