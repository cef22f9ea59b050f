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

// nudgeDelay lets the kubelet's own watch of the ConfigMap or Secret arrive before
// the pod's event, at which it reads it.
const nudgeDelay = 150 * time.Millisecond

// use is a ConfigMap or Secret that a pod mounts.
type use struct {
	schema.GroupResource
	key
}

// mountedBy finds the ConfigMaps and Secrets in a pod's volumes. Those in its
// environment do not count: they are read once, when a container starts. The
// namespace is left out.
func mountedBy(spec json.RawMessage) ([]use, error) {
	type named struct{ Name, SecretName string }
	var s struct {
		Volumes []struct {
			ConfigMap, Secret *named
			Projected         *struct {
				Sources []struct{ ConfigMap, Secret *named }
			}
		}
	}
	if empty(spec) {
		return nil, nil
	}
	if err := json.Unmarshal(spec, &s); err != nil {
		return nil, fmt.Errorf("spec.volumes: %w", err)
	}
	var uses []use
	add := func(configMap, secret *named) {
		if configMap != nil {
			uses = append(uses, use{configMapsGR, key{name: configMap.Name}})
		}
		if secret != nil {
			uses = append(uses, use{secretsGR, key{name: secret.Name + secret.SecretName}})
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

// nudger makes the kubelet sync the pods whose mounted content changed. A kubelet by
// itself looks after about a minute.
type nudger struct {
	store *store
	node  string
	log   *zap.Logger

	mu      sync.Mutex
	changed map[use]*object
	wake    chan struct{}
}

func newNudger(s *store, node string, log *zap.Logger) *nudger {
	return &nudger{store: s, node: node, log: log, changed: map[use]*object{}, wake: make(chan struct{}, 1)}
}

// observe notes a change. It is called with the store's lock held.
func (n *nudger) observe(r resource, kind watch.EventType, o *object) {
	gr := r.GroupResource()
	if kind == watch.Deleted || gr != configMapsGR && gr != secretsGR {
		return
	}
	n.mu.Lock()
	n.changed[use{gr, o.key}] = o
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// run nudges until ctx ends.
func (n *nudger) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.wake:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(nudgeDelay):
		}
		n.mu.Lock()
		changed := n.changed
		n.changed = map[use]*object{}
		n.mu.Unlock()
		if err := n.store.touch(n.node, changed); err != nil {
			n.log.Error("nudge pods", zap.Error(err))
		}
	}
}

// touch changes the content version of the node's pods that mount what changed.
func (s *store) touch(node string, changed map[use]*object) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tables[podsGR]
	if t == nil {
		return nil
	}
	for k, e := range t.entries {
		if e.view == nil || e.view.Get("spec.nodeName") != node {
			continue
		}
		sum := sha256.New()
		sum.Write([]byte(e.touched))
		hit := false
		for _, u := range e.view.uses {
			u.namespace = k.namespace
			// A pod that came later reads the change anyway.
			if o := changed[u]; o != nil && o.rv > e.born {
				sum.Write(o.digest[:])
				hit = true
			}
		}
		if !hit {
			continue
		}
		before := e.touched
		e.touched = hex.EncodeToString(sum.Sum(nil)[:6])
		if err := s.refresh(t, k, e); err != nil {
			e.touched = before
			return fmt.Errorf("pod %s: %w", k, err)
		}
	}
	return nil
}
