package nodeapi

import (
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/petiole-io/petiole/leaf/nodeapi/codec"
	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
	"github.com/petiole-io/petiole/streams"
)

// nodeLeases is the namespace of the kubelets' heartbeats.
const nodeLeases = "kube-node-lease"

// heartbeats records when each kubelet last renewed its lease. Leases are kept in memory
// only: a kubelet renews them every ten seconds.
type heartbeats struct {
	mu sync.Mutex
	at map[string]time.Time
}

func (h *heartbeats) observe(gr schema.GroupResource, kind watch.EventType, o *objects.Object) {
	if gr != objects.Leases || o.Namespace != nodeLeases || kind == watch.Deleted {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.at == nil {
		h.at = map[string]time.Time{}
	}
	h.at[o.Name] = time.Now()
}

// Leases returns when the kubelets that use this node API last renewed their leases, sorted by
// name. It is safe for concurrent use.
func (a *API) Leases() []streams.NodePresence {
	a.heartbeats.mu.Lock()
	defer a.heartbeats.mu.Unlock()
	out := make([]streams.NodePresence, 0, len(a.heartbeats.at))
	for _, name := range slices.Sorted(maps.Keys(a.heartbeats.at)) {
		out = append(out, streams.NodePresence{Name: name, Renewed: a.heartbeats.at[name]})
	}
	return out
}

// recreateLease accepts the renewal of a lease that was lost in a restart, so that the kubelet
// does not notice the restart.
func (h *handler) recreateLease(w http.ResponseWriter, q *request) error {
	obj, err := codec.ReadObject(q.Request, q.resource.GVK())
	if err != nil {
		return err
	}
	meta, err := obj.Child("metadata")
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	effective, err := h.createObject(q, q.Key, obj, meta)
	if err != nil {
		return err
	}
	return codec.WriteObject(w, http.StatusOK, q.out, effective)
}
