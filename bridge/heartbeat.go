package bridge

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"

	"github.com/petiole-io/petiole/streams"
)

// The bounds of a heartbeat. A site with maxSiteNodes nodes stays below. What a heartbeat
// says is written to the Site's status: these are the bounds of its schema, too.
const (
	maxPresence = 256 << 10
	maxDegraded = 32
	maxName     = 253
	maxReason   = 128
)

// reasonPattern is that of a condition's reason.
var reasonPattern = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$`)

// decodePresence reads a heartbeat, if it is within the bounds. A count above the highest
// that the API can say becomes that.
func decodePresence(data []byte) (streams.Presence, error) {
	var b streams.Presence
	if len(data) > maxPresence {
		return b, fmt.Errorf("heartbeat has %d bytes, at most %d are read", len(data), maxPresence)
	}
	if err := boundedJSON(data, maxSiteNodes+16); err != nil {
		return b, err
	}
	if err := json.Unmarshal(data, &b); err != nil {
		return b, fmt.Errorf("read heartbeat: %w", err)
	}
	for _, s := range []string{b.Site, b.Version, b.Boot} {
		if len(s) > maxName {
			return b, fmt.Errorf("heartbeat with a name of %d bytes", len(s))
		}
	}
	for _, n := range b.Nodes {
		if len(n.Name) > maxName {
			return b, fmt.Errorf("heartbeat with a name of %d bytes", len(n.Name))
		}
	}
	if len(b.Degraded) > maxDegraded {
		return b, fmt.Errorf("heartbeat with %d reasons", len(b.Degraded))
	}
	for _, s := range b.Degraded {
		if len(s) > maxReason || !reasonPattern.MatchString(s) {
			return b, fmt.Errorf("heartbeat with a reason of %d bytes, or one that does not match %s", len(s), reasonPattern)
		}
	}
	for _, n := range []*uint64{&b.Applied, &b.AppliedHub, &b.Unapplied, &b.Quarantined, &b.Dropped, &b.ReportedPending, &b.TelemetryPending} {
		*n = min(*n, math.MaxInt64)
	}
	return b, nil
}

// heartbeats takes in presence.*, renews the leases of the nodes that are alive, and
// tells the others when a site or a node is heard again or falls silent.
type heartbeatConsumer struct {
	clients    *clients
	watch      *watch
	publish    *publisher
	liveness   *liveness
	log        *zap.Logger
	count      *counters
	queue      workqueue.TypedRateLimitingInterface[string]
	outage     *outage
	duplicates *duplicateDetector

	// woke is called when nodes of a site can be spoken for again, changed when a site
	// was connected or disconnected.
	onNodesAlive  func(site string, nodes []string)
	onSiteChanged func(site string)

	mu    sync.Mutex
	renew map[string][]string
	// versions are the resource versions of the leases as this bridge wrote them last.
	versions map[string]string
}

// run takes heartbeats until ctx ends.
func (h *heartbeatConsumer) run(ctx context.Context, nc *nats.Conn, workers int) error {
	sub, err := nc.Subscribe(streams.PresenceFilter, func(m *nats.Msg) { h.handle(m) })
	if err != nil {
		return fmt.Errorf("subscribe to presence: %w", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		<-ctx.Done()
		h.queue.ShutDown()
	})
	for range workers {
		wg.Go(func() {
			for site, down := h.queue.Get(); !down; site, down = h.queue.Get() {
				h.renewLeases(ctx, site)
				h.queue.Done(site)
			}
		})
	}
	wg.Go(func() {
		for sleep(ctx, time.Second) {
			for _, site := range h.liveness.expire(time.Now()) {
				h.log.Info("site disconnected", zap.String("site", site))
				h.onSiteChanged(site)
			}
		}
	})
	wg.Wait()
	if err := sub.Unsubscribe(); err != nil && !nc.IsClosed() {
		return fmt.Errorf("unsubscribe from presence: %w", err)
	}
	return nil
}

// take runs on the subscription's goroutine: it notes and enqueues.
func (h *heartbeatConsumer) handle(m *nats.Msg) {
	site, err := streams.SiteOfPresence(m.Subject)
	if err != nil || !h.publish.siteExists(site) {
		return
	}
	b, err := decodePresence(m.Data)
	if err != nil {
		h.count.refused.Add(1)
		h.log.Debug("heartbeat not understood", zap.String("site", site), zap.Error(err))
		return
	}
	h.duplicates.heartbeat(site, b.Boot, time.Now())
	alive, woken, connected := h.liveness.heartbeat(site, b, time.Now())
	if connected {
		h.log.Info("site connected", zap.String("site", site), zap.String("version", b.Version))
		h.onSiteChanged(site)
	}
	if len(woken) > 0 {
		h.onNodesAlive(site, woken)
	}
	if len(alive) > 0 {
		h.mu.Lock()
		h.renew[site] = alive
		h.mu.Unlock()
		h.queue.Add(site)
	}
}

func (h *heartbeatConsumer) renewLeases(ctx context.Context, site string) {
	h.mu.Lock()
	nodes := h.renew[site]
	h.mu.Unlock()
	for _, n := range nodes {
		// Only now: the heartbeat may have waited behind others, and a lease tells the truth.
		if ok, _ := h.liveness.alive(site, n, time.Now()); !ok {
			continue
		}
		err := h.renewLease(ctx, site, n)
		if ctx.Err() != nil {
			return
		}
		if apierrors.IsConflict(err) {
			// Somebody else has renewed it, or it was made anew: once more.
			h.count.conflicts.Add(1)
			h.queue.AddRateLimited(site)
			return
		}
		h.outage.report(err)
		if err != nil {
			h.queue.AddRateLimited(site)
			return
		}
	}
	h.queue.Forget(site)
}

// renewLease renews the node's lease, or creates it. A node that is not there, or not
// of this site, has none.
func (h *heartbeatConsumer) renewLease(ctx context.Context, site, node string) error {
	o := h.watch.get(coreKey("nodes", "", node))
	if o == nil || o.GetLabels()[SiteLabel] != site {
		h.setVersion(node, "")
		return nil
	}
	version, err := h.leaseVersion(ctx, node)
	if apierrors.IsNotFound(err) {
		version, err = h.createLease(ctx, node, o.GetUID())
	} else if err == nil {
		version, err = h.patchLease(ctx, node, version)
	}
	h.setVersion(node, version)
	if err != nil {
		return fmt.Errorf("renew lease of node %s: %w", node, err)
	}
	return nil
}

// leaseVersion is the resource version of the lease, from this bridge's last write or,
// when it has not written yet, by a patch that changes nothing: the bridge may not read
// leases.
func (h *heartbeatConsumer) leaseVersion(ctx context.Context, node string) (string, error) {
	h.mu.Lock()
	version := h.versions[node]
	h.mu.Unlock()
	if version != "" {
		return version, nil
	}
	l, err := h.clients.leases.Leases(corev1.NamespaceNodeLease).Patch(ctx, node, types.MergePatchType, []byte("{}"), metav1.PatchOptions{})
	if err != nil {
		return "", err
	}
	return l.ResourceVersion, nil
}

func (h *heartbeatConsumer) setVersion(node, version string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if version == "" {
		delete(h.versions, node)
		return
	}
	h.versions[node] = version
}

// patchLease renews this version of the lease: a renewal of a former leader that comes
// late is refused. It returns the new version, empty when it is not known.
func (h *heartbeatConsumer) patchLease(ctx context.Context, node, version string) (string, error) {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": version}, "spec": leaseSpec(node),
	})
	if err != nil {
		return "", err
	}
	l, err := h.clients.leases.Leases(corev1.NamespaceNodeLease).Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return "", err
	}
	return l.ResourceVersion, nil
}

func (h *heartbeatConsumer) createLease(ctx context.Context, node string, uid types.UID) (string, error) {
	l, err := h.clients.leases.Leases(corev1.NamespaceNodeLease).Create(ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: node, OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "v1", Kind: "Node", Name: node, UID: uid},
		}},
		Spec: leaseSpec(node),
	}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return l.ResourceVersion, nil
}

// leaseSpec is a renewal now.
func leaseSpec(node string) coordinationv1.LeaseSpec {
	now, seconds := metav1.NowMicro(), int32(nodeLeaseDuration/time.Second)
	return coordinationv1.LeaseSpec{HolderIdentity: &node, LeaseDurationSeconds: &seconds, RenewTime: &now}
}
