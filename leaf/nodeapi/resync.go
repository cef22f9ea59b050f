package nodeapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

// resyncDelay lets the kubelet's watch of the ConfigMap or Secret deliver the change before
// the event of the pod, on which the kubelet reads it.
const resyncDelay = 150 * time.Millisecond

// mountedRef identifies a ConfigMap or Secret that a pod mounts.
type mountedRef struct {
	schema.GroupResource
	key
}

// mountedBy returns the ConfigMaps and Secrets in a pod's volumes, without their namespace.
// Those in its environment do not count: they are read only when a container starts.
func mountedBy(spec json.RawMessage) ([]mountedRef, error) {
	type named struct{ Name, SecretName string }
	var s struct {
		Volumes []struct {
			ConfigMap, Secret *named
			Projected         *struct {
				Sources []struct{ ConfigMap, Secret *named }
			}
		}
	}
	if isEmpty(spec) {
		return nil, nil
	}
	if err := json.Unmarshal(spec, &s); err != nil {
		return nil, fmt.Errorf("spec.volumes: %w", err)
	}
	var uses []mountedRef
	add := func(configMap, secret *named) {
		if configMap != nil {
			uses = append(uses, mountedRef{configMapsGR, key{name: configMap.Name}})
		}
		if secret != nil {
			uses = append(uses, mountedRef{secretsGR, key{name: secret.Name + secret.SecretName}})
		}
	}
	for _, v := range s.Volumes {
		add(v.ConfigMap, v.Secret)
		if v.Projected != nil {
			for _, src := range v.Projected.Sources {
				add(src.ConfigMap, src.Secret)
			}
		}
	}
	return uses, nil
}

// resyncTrigger makes the kubelet sync the pods whose mounted content has changed. Without it
// the kubelet notices a change after about a minute.
type resyncTrigger struct {
	store *store
	node  string
	log   *zap.Logger

	mu      sync.Mutex
	changed map[mountedRef]*object
	wake    chan struct{}
}

func newResyncTrigger(s *store, node string, log *zap.Logger) *resyncTrigger {
	return &resyncTrigger{store: s, node: node, log: log, changed: map[mountedRef]*object{}, wake: make(chan struct{}, 1)}
}

// observe records a change. It is called with the store's lock held.
func (t *resyncTrigger) observe(r resource, kind watch.EventType, o *object) {
	gr := r.GroupResource()
	if kind == watch.Deleted || gr != configMapsGR && gr != secretsGR {
		return
	}
	t.mu.Lock()
	t.changed[mountedRef{gr, o.key}] = o
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// run triggers resyncs until ctx ends.
func (t *resyncTrigger) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.wake:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(resyncDelay):
		}
		t.mu.Lock()
		changed := t.changed
		t.changed = map[mountedRef]*object{}
		t.mu.Unlock()
		if err := t.store.bumpContentVersions(t.node, changed); err != nil {
			t.log.Error("trigger resync of pods", zap.Error(err))
		}
	}
}

// bumpContentVersions changes the content version of the node's pods that mount a changed
// object.
func (s *store) bumpContentVersions(node string, changed map[mountedRef]*object) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tables[podsGR]
	if t == nil {
		return nil
	}
	for k, e := range t.entries {
		if e.effective == nil || e.effective.Get("spec.nodeName") != node {
			continue
		}
		sum := sha256.New()
		sum.Write([]byte(e.contentVersion))
		found := false
		for _, u := range e.effective.mounts {
			u.namespace = k.namespace
			// A pod that was created after the change reads it anyway.
			if o := changed[u]; o != nil && o.rv > e.createdRV {
				sum.Write(o.digest[:])
				found = true
			}
		}
		if !found {
			continue
		}
		before := e.contentVersion
		e.contentVersion = hex.EncodeToString(sum.Sum(nil)[:6])
		if err := s.recompute(t, k, e); err != nil {
			e.contentVersion = before
			return fmt.Errorf("pod %s: %w", k, err)
		}
	}
	return nil
}
