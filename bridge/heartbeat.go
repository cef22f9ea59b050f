package bridge

import (
	"context"
	"encoding/json"
	"fmt"
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

// maxPresence bounds a heartbeat's size; a site with 1,000 nodes stays below.
const maxPresence = 256 << 10

// heartbeats takes in presence.*, renews the leases of the nodes that are alive, and
// tells the others when a site or a node is heard again or falls silent.
type heartbeats struct {
	clients  *clients
	watch    *watch
	publish  *publisher
	presence *presence
	log      *zap.Logger
	queue    workqueue.TypedRateLimitingInterface[string]
	outage   *outage

	// woke is called when nodes of a site can be spoken for again, changed when a site
	// was connected or disconnected.
	woke    func(site string, nodes []string)
	changed func(site string)

	mu    sync.Mutex
	renew map[string][]string
}

// run takes heartbeats until ctx ends.
func (h *heartbeats) run(ctx context.Context, nc *nats.Conn, workers int) error {
	sub, err := nc.Subscribe(streams.PresenceFilter, func(m *nats.Msg) { h.take(m) })
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
				h.work(ctx, site)
				h.queue.Done(site)
			}
		})
	}
	wg.Go(func() {
		for pause(ctx, time.Second) {
			for _, site := range h.presence.expire(time.Now()) {
				h.log.Info("site disconnected", zap.String("site", site))
				h.changed(site)
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
func (h *heartbeats) take(m *nats.Msg) {
	site, err := streams.SiteOfPresence(m.Subject)
	if err != nil || len(m.Data) > maxPresence || !h.publish.siteExists(site) {
		return
	}
	var b streams.Presence
	if err := json.Unmarshal(m.Data, &b); err != nil {
		h.log.Warn("heartbeat not understood", zap.String("site", site), zap.Error(err))
		return
	}
	alive, woken, connected := h.presence.beat(site, b, time.Now())
	if connected {
		h.log.Info("site connected", zap.String("site", site), zap.String("version", b.Version))
		h.changed(site)
	}
	if len(woken) > 0 {
		h.woke(site, woken)
	}
	if len(alive) > 0 {
		h.mu.Lock()
		h.renew[site] = alive
		h.mu.Unlock()
		h.queue.Add(site)
	}
}

func (h *heartbeats) work(ctx context.Context, site string) {
	h.mu.Lock()
	nodes := h.renew[site]
	h.mu.Unlock()
	for _, n := range nodes {
		// Only now: the heartbeat may have waited behind others, and a lease tells the truth.
		if ok, _ := h.presence.alive(site, n, time.Now()); !ok {
			continue
		}
		err := h.renewLease(ctx, site, n)
		if ctx.Err() != nil {
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
func (h *heartbeats) renewLease(ctx context.Context, site, node string) error {
	o := h.watch.get(coreKey("nodes", "", node))
	if o == nil || o.GetLabels()[SiteLabel] != site {
		return nil
	}
	leases := h.clients.own.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	now := metav1.NowMicro()
	seconds := int32(nodeLeaseDuration / time.Second)
	patch, err := json.Marshal(map[string]any{"spec": coordinationv1.LeaseSpec{
		HolderIdentity: &node, LeaseDurationSeconds: &seconds, RenewTime: &now,
	}})
	if err != nil {
		return fmt.Errorf("encode lease of node %s: %w", node, err)
	}
	_, err = leases.Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		_, err = leases.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: node, OwnerReferences: []metav1.OwnerReference{
				{APIVersion: "v1", Kind: "Node", Name: node, UID: o.GetUID()},
			}},
			Spec: coordinationv1.LeaseSpec{HolderIdentity: &node, LeaseDurationSeconds: &seconds, RenewTime: &now},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("renew lease of node %s: %w", node, err)
	}
	return nil
}
