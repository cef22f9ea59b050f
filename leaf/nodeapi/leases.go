package nodeapi

import (
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/petiole-io/petiole/streams"
)

// nodeLeases is the namespace of the kubelets' heartbeats.
const nodeLeases = "kube-node-lease"

// heartbeats remembers when each kubelet last renewed its lease. Leases are answered
// here and live in memory only: a kubelet renews every ten seconds.
type heartbeats struct {
	mu sync.Mutex
	at map[string]time.Time
}

func (h *heartbeats) observe(r resource, kind watch.EventType, o *object) {
	if r.GroupResource() != leasesGR || o.namespace != nodeLeases || kind == watch.Deleted {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.at == nil {
		h.at = map[string]time.Time{}
	}
	h.at[o.name] = time.Now()
}

// Leases says when the kubelets that use this node API last renewed their leases, in
// the order of their names. It is safe for concurrent use.
func (a *API) Leases() []streams.NodePresence {
	a.heartbeats.mu.Lock()
	defer a.heartbeats.mu.Unlock()
	out := make([]streams.NodePresence, 0, len(a.heartbeats.at))
	for _, name := range slices.Sorted(maps.Keys(a.heartbeats.at)) {
		out = append(out, streams.NodePresence{Name: name, Renewed: a.heartbeats.at[name]})
	}
	return out
}

// renewUnknown takes the renewal of a lease that was forgotten by a restart, so that
// the kubelet need not notice it.
func (a *API) renewUnknown(w http.ResponseWriter, q *request) error {
	obj, err := q.object()
	if err != nil {
		return err
	}
	meta, err := obj.child("metadata")
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	view, err := a.createAs(q, q.key, obj, meta)
	if err != nil {
		return err
	}
	return writeObject(w, http.StatusOK, q.out, view)
}
