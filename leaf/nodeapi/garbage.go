package nodeapi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
	"github.com/petiole-io/petiole/streams"
)

// collectInterval is the time between two runs of the garbage collector.
const collectInterval = 5 * time.Second

// A tombstone is kept for tombstoneTTL, as in the leaf's store: until then an older version of
// its object is not mistaken for a new object. Expired tombstones are removed every
// expireInterval.
const (
	tombstoneTTL   = 24 * time.Hour
	expireInterval = time.Hour
)

// garbageCollector removes the tokens of pods that no longer exist, old Events, and local
// messages about pods that the cloud no longer needs. A local message is removed only after
// the forwarder has acknowledged it, that is, when the hub has it. The collector also reports
// the end of a pod again if the cloud still wants the pod.
//
// If the server is killed, removing a message may bring back the previous message of its
// subject. That does not bring back a pod that the cloud has deleted, and the collector
// removes it in the same way; the kubelet deletes a mirror pod that comes back.
type garbageCollector struct {
	api    *API
	wakeup chan struct{}

	// mu serializes collect.
	mu sync.Mutex
	// pending holds the Events that are no longer served and wait for the forwarder.
	pending   []eventRef
	expiredAt time.Time
}

func (g *garbageCollector) wake() {
	select {
	case g.wakeup <- struct{}{}:
	default:
	}
}

// observe starts a collection at once when a pod is deleted.
func (g *garbageCollector) observe(gr schema.GroupResource, kind watch.EventType) {
	if kind == watch.Deleted && gr == objects.Pods {
		g.wake()
	}
}

func (g *garbageCollector) run(ctx context.Context) error {
	tick := time.NewTicker(collectInterval)
	defer tick.Stop()
	for {
		if err := g.collect(ctx); ctx.Err() == nil {
			g.api.outcomes.Report("collect garbage", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-g.wakeup:
		}
	}
}

func (g *garbageCollector) collect(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := time.Now(); now.Sub(g.expiredAt) > expireInterval {
		g.api.store.ExpireTombstones(now.Add(-tombstoneTTL))
		g.expiredAt = now
	}
	return errors.Join(g.removeTokens(), g.expireEvents(), g.reportEndsAgain(ctx), g.purgeObsolete(ctx))
}

// removeTokens removes the tokens of pods that no longer exist.
func (g *garbageCollector) removeTokens() error {
	alive := map[string]bool{}
	g.api.store.Each(objects.Pods, func(_ objects.Key, s objects.State) {
		if s.Effective != nil {
			alive[s.Effective.UID] = true
		}
	})
	return g.api.tokens.Retain(func(uid string) bool { return alive[uid] })
}

func (g *garbageCollector) expireEvents() error {
	var errs []error
	for _, ref := range g.api.events.expire(time.Now()) {
		if err := g.api.store.RemoveLocal(objects.Events, ref.Key, ref.seq); err != nil {
			errs = append(errs, err)
		}
		g.pending = append(g.pending, ref)
	}
	return errors.Join(errs...)
}

// reportEndsAgain reports the end of the pods that the cloud wants although they have ended
// here: once for each desired message, and once after a start. A pod whose end is no longer
// known here, because the cloud had accepted it, runs again.
func (g *garbageCollector) reportEndsAgain(ctx context.Context) error {
	var pods []objects.Key
	g.api.store.Each(objects.Pods, func(k objects.Key, s objects.State) {
		if s.EndUnreported() {
			pods = append(pods, k)
		}
	})
	var errs []error
	for _, k := range pods {
		errs = append(errs, g.api.reportEndAgain(ctx, k))
	}
	return errors.Join(errs...)
}

// obsoletePod is a local message that can be removed.
type obsoletePod struct {
	objects.Key
	node string
	seq  uint64
}

func (g *garbageCollector) purgeObsolete(ctx context.Context) error {
	var pods []obsoletePod
	g.api.store.Each(objects.Pods, func(k objects.Key, s objects.State) {
		if s.Obsolete() {
			pods = append(pods, obsoletePod{k, s.Local.Node, s.Local.Seq})
		}
	})
	if len(pods) == 0 && len(g.pending) == 0 {
		return nil
	}
	forwarded, err := g.forwarded(ctx)
	if err != nil {
		return err
	}
	for _, p := range pods {
		if p.seq > forwarded {
			continue
		}
		if err := g.purgeMessage(ctx, objects.Pods, p.node, p.Key, p.seq); err != nil {
			return err
		}
		if err := g.api.store.RemoveLocal(objects.Pods, p.Key, p.seq); err != nil {
			return err
		}
	}
	var wait []eventRef
	for i, ref := range g.pending {
		if ref.seq > forwarded {
			wait = append(wait, ref)
			continue
		}
		if err := g.purgeMessage(ctx, objects.Events, g.api.cfg.Node, ref.Key, ref.seq); err != nil {
			g.pending = append(wait, g.pending[i:]...)
			return err
		}
	}
	g.pending = wait
	return nil
}

// forwarded returns the sequence of SITE_REPORTED up to which the hub has all messages.
func (g *garbageCollector) forwarded(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	c, err := g.api.cfg.JS.Consumer(ctx, streams.SiteReported, streams.ForwardConsumer)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		// Nothing has been forwarded yet.
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look up consumer %s: %w", streams.ForwardConsumer, err)
	}
	return c.CachedInfo().AckFloor.Stream, nil
}

// purgeMessage removes the message of an object from SITE_REPORTED, unless it is newer than
// seq.
func (g *garbageCollector) purgeMessage(ctx context.Context, gr schema.GroupResource, node string, k objects.Key, seq uint64) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s, err := g.api.cfg.JS.Stream(ctx, streams.SiteReported)
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", streams.SiteReported, err)
	}
	ref := streams.Ref{Node: node, Group: gr.Group, Resource: gr.Resource, Namespace: k.Namespace, Name: k.Name}
	subject := streams.LocalReportedSubject(ref)
	if err := s.Purge(ctx, jetstream.WithPurgeSubject(subject), jetstream.WithPurgeSequence(seq+1)); err != nil {
		return fmt.Errorf("purge %s: %w", subject, err)
	}
	return nil
}
