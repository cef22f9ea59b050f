package nodeapi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/petiole-io/petiole/streams"
)

// janitorEvery is how often what has done its work is looked for.
const janitorEvery = 5 * time.Second

// A tombstone is remembered for tombstoneLife, like in the leaf's store: until then an
// older version of its object is not taken for a new one. What is older is looked for
// every buryEvery.
const (
	tombstoneLife = 24 * time.Hour
	buryEvery     = time.Hour
)

// janitor removes what is no longer needed: tokens of pods that are gone, old Events,
// and local messages about pods that the cloud has finished with. A local message
// goes only after the forwarder's acknowledgement, which says that the hub has it. The
// end of a pod that the cloud wants nevertheless is reported again.
//
// A message that goes may bring its predecessor back when the server is killed (see the
// leaf's census). That shows no pod that the cloud has taken away, and goes like the one
// before it; a mirror pod that it shows the kubelet deletes again.
type janitor struct {
	api   *API
	woken chan struct{}

	// mu lets one round run at a time.
	mu sync.Mutex
	// pending are the Events that left the view and wait for the forwarder.
	pending []eventRef
	buried  time.Time
}

func (j *janitor) wake() {
	select {
	case j.woken <- struct{}{}:
	default:
	}
}

// observe looks again at once when a pod has gone.
func (j *janitor) observe(r resource, kind watch.EventType, _ *object) {
	if kind == watch.Deleted && r.GroupResource() == podsGR {
		j.wake()
	}
}

func (j *janitor) run(ctx context.Context) error {
	tick := time.NewTicker(janitorEvery)
	defer tick.Stop()
	failing := false
	for {
		err := j.round(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			j.api.log.Warn("clean up local state", zap.Error(err))
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-j.woken:
		}
	}
}

func (j *janitor) round(ctx context.Context) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if now := time.Now(); now.Sub(j.buried) > buryEvery {
		j.api.store.bury(now.Add(-tombstoneLife))
		j.buried = now
	}
	return errors.Join(j.tokens(), j.expireEvents(), j.insist(ctx), j.purge(ctx))
}

// tokens removes those of pods that clients no longer see.
func (j *janitor) tokens() error {
	alive := map[string]bool{}
	j.api.store.each(podsGR, func(_ key, e *entry) {
		if e.view != nil {
			alive[e.view.uid] = true
		}
	})
	return j.api.vault.keepOnly(func(uid string) bool { return alive[uid] })
}

func (j *janitor) expireEvents() error {
	var errs []error
	r := j.api.store.resource(eventsGR)
	for _, ref := range j.api.events.expire(time.Now()) {
		if err := j.api.store.forget(r, ref.key, ref.seq); err != nil {
			errs = append(errs, err)
		}
		j.pending = append(j.pending, ref)
	}
	return errors.Join(errs...)
}

// insist reports the end of pods again that are wanted although they ended here: once
// for each message that wants one, and once after a start. A pod whose end this site has
// forgotten, because the cloud had taken note of it, runs again.
func (j *janitor) insist(ctx context.Context) error {
	var pods []key
	j.api.store.each(podsGR, func(k key, e *entry) {
		if _, due := e.unanswered(); due {
			pods = append(pods, k)
		}
	})
	var errs []error
	for _, k := range pods {
		errs = append(errs, j.api.reportEndAgain(ctx, k))
	}
	return errors.Join(errs...)
}

// obsoletePod is a local message that may go.
type obsoletePod struct {
	key
	node string
	seq  uint64
}

func (j *janitor) purge(ctx context.Context) error {
	var pods []obsoletePod
	j.api.store.each(podsGR, func(k key, e *entry) {
		if e.obsolete() {
			pods = append(pods, obsoletePod{k, e.local.node, e.local.seq})
		}
	})
	if len(pods) == 0 && len(j.pending) == 0 {
		return nil
	}
	forwarded, err := j.forwarded(ctx)
	if err != nil {
		return err
	}
	r := j.api.store.resource(podsGR)
	for _, p := range pods {
		if p.seq > forwarded {
			continue
		}
		if err := j.drop(ctx, podsGR, p.node, p.key, p.seq); err != nil {
			return err
		}
		if err := j.api.store.forget(r, p.key, p.seq); err != nil {
			return err
		}
	}
	var wait []eventRef
	for i, ref := range j.pending {
		if ref.seq > forwarded {
			wait = append(wait, ref)
			continue
		}
		if err := j.drop(ctx, eventsGR, j.api.cfg.Node, ref.key, ref.seq); err != nil {
			j.pending = append(wait, j.pending[i:]...)
			return err
		}
	}
	j.pending = wait
	return nil
}

// forwarded is the sequence of SITE_REPORTED up to which the hub has everything.
func (j *janitor) forwarded(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	c, err := j.api.cfg.JS.Consumer(ctx, streams.SiteReported, streams.ForwardConsumer)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		// Nothing was forwarded yet.
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look up consumer %s: %w", streams.ForwardConsumer, err)
	}
	return c.CachedInfo().AckFloor.Stream, nil
}

// drop removes a message up to seq from SITE_REPORTED, and leaves a newer one.
func (j *janitor) drop(ctx context.Context, gr schema.GroupResource, node string, k key, seq uint64) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s, err := j.api.cfg.JS.Stream(ctx, streams.SiteReported)
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", streams.SiteReported, err)
	}
	ref := streams.Ref{Node: node, Group: gr.Group, Resource: gr.Resource, Namespace: k.namespace, Name: k.name}
	subject := streams.LocalReportedSubject(ref)
	if err := s.Purge(ctx, jetstream.WithPurgeSubject(subject), jetstream.WithPurgeSequence(seq+1)); err != nil {
		return fmt.Errorf("purge %s: %w", subject, err)
	}
	return nil
}
