package nodeapi

import (
	"crypto/subtle"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/petiole-io/petiole/leaf/nodeapi/catalog"
	"github.com/petiole-io/petiole/leaf/nodeapi/codec"
	"github.com/petiole-io/petiole/leaf/nodeapi/local"
	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
)

// maxBody bounds a request, as the API server does.
const maxBody = 3 << 20

// request is a request for a resource, with the resource that its path names.
type request struct {
	*http.Request
	catalog.Route
	resource catalog.Resource
	verb     string
	out      codec.Media
}

// handler answers the requests of clients. It is the handler behind the TLS listener.
type handler struct {
	node string
	// statusInterval is Config.StatusInterval.
	statusInterval time.Duration
	// server is what discovery tells about the API, token the only token that it accepts.
	server catalog.Server
	token  string
	store  *objects.Store
	local  *local.Store
	// credentials answers requests for credentials of pods.
	credentials credentials
	// kubelet is nil if logs and commands of pods are not served.
	kubelet *kubelet
	log     *zap.Logger
	// closing is closed when no more requests are accepted. inflight is held for reading by
	// every request in progress.
	closing  chan struct{}
	inflight sync.RWMutex
}

// ServeHTTP answers one request.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.inflight.RLock()
	defer h.inflight.RUnlock()
	select {
	case <-h.closing:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "the node API is stopping", http.StatusServiceUnavailable)
		return
	default:
	}
	if err := h.serve(w, r); err != nil && //nolint:contextcheck // the request carries it
		r.Context().Err() == nil {
		status := codec.StatusOf(err)
		if status.Code == http.StatusInternalServerError {
			h.log.Error("request failed", zap.String("method", r.Method), zap.String("path", r.URL.Path), zap.Error(err))
		}
		// The client may have disconnected.
		_ = codec.WriteError(w, err)
	}
}

func (h *handler) serve(w http.ResponseWriter, r *http.Request) error {
	switch r.URL.Path {
	case "/healthz", "/livez", "/readyz":
		_, err := w.Write([]byte("ok"))
		return err
	}
	if !h.authenticated(r) {
		return apierrors.NewUnauthorized("a bearer token of this node is required")
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	rt, ok := catalog.ParseRoute(r.URL.Path)
	if !ok {
		return h.discover(w, r)
	}
	stored, ok := h.store.Lookup(rt.GroupVersionResource)
	if !ok {
		if reason := catalog.Unserved(rt.GroupResource()); reason != "" {
			return apierrors.NewForbidden(rt.GroupResource(), rt.Name, errors.New(reason))
		}
		return noSuchPath()
	}
	q := &request{Request: r, Route: rt, resource: catalog.Served(stored), verb: catalog.VerbOf(r, rt.Name != "")}
	if err := q.check(); err != nil {
		return err
	}
	if q.streamsPod() {
		return h.dispatch(w, q)
	}
	table := (q.verb == "get" || q.verb == "list") && q.Sub == ""
	if q.out = codec.Accepted(r.Header.Get("Accept"), q.resource.GVK(), table); q.out == codec.None {
		return codec.NotAcceptable()
	}
	return h.dispatch(w, q)
}

// discover handles the paths that do not name a resource.
func (h *handler) discover(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodGet {
		if document := catalog.Discover(r.URL.Path, h.server, h.store.Resources()); document != nil {
			return codec.WriteJSON(w, document)
		}
	}
	return noSuchPath()
}

// check returns an error for a request that is not supported, before its body is read.
func (q *request) check() error {
	gr := q.resource.GroupResource()
	if q.resource.Namespaced && q.Namespace == "" && (q.Name != "" || q.verb == "create") {
		return apierrors.NewBadRequest("the request must name a namespace")
	}
	if !q.resource.Namespaced && q.Namespace != "" {
		return noSuchPath()
	}
	verbs := q.resource.Verbs()
	if q.Sub != "" {
		if verbs = q.resource.Subresources[q.Sub]; verbs == nil {
			if q.verb == "get" {
				return noSuchPath()
			}
			return q.resource.Refuse(q.Name)
		}
	}
	switch {
	case slices.Contains(verbs, q.verb):
		return nil
	case slices.Contains([]string{"create", "update", "patch", "delete", "deletecollection"}, q.verb):
		return q.resource.Refuse(q.Name)
	}
	return apierrors.NewMethodNotSupported(gr, q.Method)
}

func (h *handler) dispatch(w http.ResponseWriter, q *request) error {
	switch {
	case q.Sub == "token":
		return h.credentials.createToken(w, q)
	case q.streamsPod():
		return h.streamPod(w, q)
	case q.resource.Virtual:
		return h.review(w, q)
	}
	switch q.verb {
	case "get":
		return h.get(w, q)
	case "list":
		return h.list(w, q)
	case "watch":
		return h.watch(w, q)
	case "create":
		if q.resource.GroupResource() == objects.PodCertificateRequests {
			return h.credentials.createPodCertificateRequest(w, q)
		}
		return h.create(w, q)
	case "update", "patch":
		return h.update(w, q)
	case "delete":
		return h.delete(w, q)
	case "deletecollection":
		// Supported only for resources that have no objects here.
		_, rv := h.store.List(q.resource.GroupResource(), objects.Selection{})
		return codec.WriteList(w, q.out, q.resource.GVK(), nil, rv)
	}
	return errors.New("verb " + q.verb + " has no handler")
}

// authenticated reports whether the request has the node's bearer token, which is the only
// credential.
func (h *handler) authenticated(r *http.Request) bool {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return ok && h.isNodeToken(token)
}

func (h *handler) isNodeToken(token string) bool {
	return subtle.ConstantTimeCompare([]byte(token), []byte(h.token)) == 1
}

// user returns the user of the node's token.
func (h *handler) user() string { return "system:node:" + h.node }
