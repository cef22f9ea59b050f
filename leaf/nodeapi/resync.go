package nodeapi

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
)

// resyncDelay lets the kubelet's watch of the ConfigMap or Secret deliver the change before
// the event of the pod, on which the kubelet reads it.
const resyncDelay = 150 * time.Millisecond

// resyncTrigger makes the kubelet sync the pods whose mounted content has changed. Without it
// the kubelet notices a change after about a minute.
type resyncTrigger struct {
	store *objects.Store
	node  string
	log   *zap.Logger

	mu      sync.Mutex
	changed map[objects.Mount]*objects.Object
	wake    chan struct{}
}

func newResyncTrigger(s *objects.Store, node string, log *zap.Logger) *resyncTrigger {
	return &resyncTrigger{store: s, node: node, log: log, changed: map[objects.Mount]*objects.Object{}, wake: make(chan struct{}, 1)}
}

// observe records a change. It is called with the store's lock held.
func (t *resyncTrigger) observe(gr schema.GroupResource, kind watch.EventType, o *objects.Object) {
	if kind == watch.Deleted || gr != objects.ConfigMaps && gr != objects.Secrets {
		return
	}
	t.mu.Lock()
	t.changed[objects.Mount{GroupResource: gr, Key: o.Key}] = o
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
		t.changed = map[objects.Mount]*objects.Object{}
		t.mu.Unlock()
		if err := t.store.BumpContentVersions(t.node, changed); err != nil {
			t.log.Error("trigger resync of pods", zap.Error(err))
		}
	}
}
