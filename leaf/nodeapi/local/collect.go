package local

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
	"github.com/petiole-io/petiole/streams"
)

// collectInterval is the time between two runs of the garbage collector.
const collectInterval = 5 * time.Second

// A tombstone is kept for TombstoneTTL, as in the leaf's store: until then an older version of
// its object is not mistaken for a new object. Expired tombstones are removed every
// expireInterval.
const (
	TombstoneTTL   = 24 * time.Hour
	expireInterval = time.Hour
)

func (s *Store) wake() {
	select {
	case s.wakeup <- struct{}{}:
	default:
	}
}

// Observe starts a collection at once when a pod is deleted.
func (s *Store) Observe(gr schema.GroupResource, kind watch.EventType) {
	if kind == watch.Deleted && gr == objects.Pods {
		s.wake()
	}
}

// Run removes what is no longer needed until ctx ends, and returns nil.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(collectInterval)
	defer tick.Stop()
	for {
		if err := s.Collect(ctx); ctx.Err() == nil {
			s.outcomes.Report("collect garbage", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-s.wakeup:
		}
	}
}

// Collect removes the tokens of pods that no longer exist, old Events, and local messages about
// pods that the cloud no longer needs. It also reports the end of a pod again if the cloud
// still wants the pod.
//
// If the server is killed, removing a message may bring back the previous message of its
// subject. That does not bring back a pod that the cloud has deleted, and Collect removes it
// in the same way; the kubelet deletes a mirror pod that comes back.
func (s *Store) Collect(ctx context.Context) error {
	s.collecting.Lock()
	defer s.collecting.Unlock()
	if now := time.Now(); now.Sub(s.expiredAt) > expireInterval {
		s.Objects.ExpireTombstones(now.Add(-TombstoneTTL))
		s.expiredAt = now
	}
	return errors.Join(s.removeTokens(), s.expireEvents(), s.reportEndsAgain(ctx), s.purgeObsolete(ctx))
}

// removeTokens removes the tokens of pods that no longer exist.
func (s *Store) removeTokens() error {
	alive := map[string]bool{}
	s.Objects.Each(objects.Pods, func(_ objects.Key, pod objects.State) {
		if pod.Effective != nil {
			alive[pod.Effective.UID] = true
		}
	})
	return s.Tokens.Retain(func(uid string) bool { return alive[uid] })
}

func (s *Store) expireEvents() error {
	var errs []error
	for _, ref := range s.events.expire(time.Now()) {
		if err := s.Objects.RemoveLocal(objects.Events, ref.Key, ref.seq); err != nil {
			errs = append(errs, err)
		}
		s.pending = append(s.pending, ref)
	}
	return errors.Join(errs...)
}

// reportEndsAgain reports the end of the pods that the cloud wants although they have ended
// here: once for each desired message, and once after a start. A pod whose end is no longer
// known here, because the cloud had accepted it, runs again.
func (s *Store) reportEndsAgain(ctx context.Context) error {
	var pods []objects.Key
	s.Objects.Each(objects.Pods, func(k objects.Key, pod objects.State) {
		if pod.EndUnreported() {
			pods = append(pods, k)
		}
	})
	var errs []error
	for _, k := range pods {
		errs = append(errs, s.reportEndAgain(ctx, k))
	}
	return errors.Join(errs...)
}

// reportEndAgain reports the end of a pod again if the cloud wants the pod and its end has not
// been reported since.
func (s *Store) reportEndAgain(ctx context.Context, k objects.Key) error {
	defer s.Lock(objects.Pods, k)()
	pod := s.Objects.State(objects.Pods, k)
	if !pod.EndUnreported() {
		return nil
	}
	if err := s.Delete(ctx, objects.Pods, k, pod.Desired.UID, pod); err != nil {
		return fmt.Errorf("report the end of pod %s again: %w", k, err)
	}
	s.Log.Info("the cloud wants a pod that has ended here: its end is reported again", zap.Stringer("pod", k), zap.String("uid", pod.Desired.UID))
	return nil
}

// obsoletePod is a local message that can be removed.
type obsoletePod struct {
	objects.Key
	node string
	seq  uint64
}

func (s *Store) purgeObsolete(ctx context.Context) error {
	var pods []obsoletePod
	s.Objects.Each(objects.Pods, func(k objects.Key, pod objects.State) {
		if pod.Obsolete() {
			pods = append(pods, obsoletePod{k, pod.Local.Node, pod.Local.Seq})
		}
	})
	if len(pods) == 0 && len(s.pending) == 0 {
		return nil
	}
	forwarded, err := s.forwarded(ctx)
	if err != nil {
		return err
	}
	for _, p := range pods {
		if p.seq > forwarded {
			continue
		}
		if err := s.purgeMessage(ctx, objects.Pods, p.node, p.Key, p.seq); err != nil {
			return err
		}
		if err := s.Objects.RemoveLocal(objects.Pods, p.Key, p.seq); err != nil {
			return err
		}
	}
	var wait []eventRef
	for i, ref := range s.pending {
		if ref.seq > forwarded && i >= len(s.pending)-waitMax {
			wait = append(wait, ref)
			continue
		}
		if err := s.purgeMessage(ctx, objects.Events, s.Node, ref.Key, ref.seq); err != nil {
			s.pending = append(wait, s.pending[i:]...)
			return err
		}
	}
	s.pending = wait
	return nil
}

// forwarded returns the sequence of SITE_REPORTED up to which the hub has all messages.
func (s *Store) forwarded(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	c, err := s.JS.Consumer(ctx, streams.SiteReported, streams.ForwardConsumer)
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
func (s *Store) purgeMessage(ctx context.Context, gr schema.GroupResource, node string, k objects.Key, seq uint64) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	stream, err := s.JS.Stream(ctx, streams.SiteReported)
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", streams.SiteReported, err)
	}
	ref := streams.Ref{Node: node, Group: gr.Group, Resource: gr.Resource, Namespace: k.Namespace, Name: k.Name}
	subject := streams.LocalReportedSubject(ref)
	if err := stream.Purge(ctx, jetstream.WithPurgeSubject(subject), jetstream.WithPurgeSequence(seq+1)); err != nil {
		return fmt.Errorf("purge %s: %w", subject, err)
	}
	return nil
}
