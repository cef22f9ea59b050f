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

	"github.com/petiole-io/petiole/leaf/nodeapi/access"
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

// ServeHTTP answers one request of the node.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.answer(w, r, func(w http.ResponseWriter, r *http.Request) error { //nolint:contextcheck // the request carries it
		if !h.authenticated(r) {
			return apierrors.NewUnauthorized("a bearer token of this node is required")
		}
		return h.serve(w, r, nil)
	})
}

// podHandler answers the requests of pods. It is the handler behind the listener for pods.
type podHandler struct {
	*handler
	access *access.Access
}

// ServeHTTP answers one request of a pod: it may get, list and watch what its roles allow.
func (h *podHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.answer(w, r, func(w http.ResponseWriter, r *http.Request) error { //nolint:contextcheck // the request carries it
		user, err := h.access.Authenticate(bearerToken(r))
		if err != nil {
			return err
		}
		return h.serve(w, r, func(q *request) error { return h.authorize(user, q) })
	})
}

func (h *podHandler) authorize(user access.User, q *request) error {
	gr := q.resource.GroupResource()
	switch {
	case !slices.Contains([]string{"get", "list", "watch"}, q.verb), q.streamsPod():
		return apierrors.NewForbidden(gr, q.Name, errors.New("this is a site's node API, where pods can only get, list and watch: all else is for the cloud's API server"))
	case q.Name == "" && q.verb != "get":
		// As at the API server, such a selector is a request for one object.
		opts, err := listOptions(q.Request)
		if err != nil {
			return err
		}
		sel, err := selectionOf(q, opts)
		if err != nil {
			return err
		}
		name, _ := sel.Fields.RequiresExactMatch("metadata.name")
		return h.access.Authorize(user, access.Request{Verb: q.verb, GroupResource: gr, Subresource: q.Sub, Key: objects.Key{Namespace: q.Namespace, Name: name}})
	}
	return h.access.Authorize(user, access.Request{Verb: q.verb, GroupResource: gr, Subresource: q.Sub, Key: q.Key})
}

// answer answers one request by serve.
func (h *handler) answer(w http.ResponseWriter, r *http.Request, serve func(http.ResponseWriter, *http.Request) error) {
	h.inflight.RLock()
	defer h.inflight.RUnlock()
	select {
	case <-h.closing:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "the node API is stopping", http.StatusServiceUnavailable)
		return
	default:
	}
	switch r.URL.Path {
	case "/healthz", "/livez", "/readyz":
		// The client may have disconnected.
		_, _ = w.Write([]byte("ok"))
		return
	}
	if err := serve(w, r); err != nil && r.Context().Err() == nil {
		status := codec.StatusOf(err)
		if status.Code == http.StatusInternalServerError {
			h.log.Error("request failed", zap.String("method", r.Method), zap.String("path", r.URL.Path), zap.Error(err))
		}
		// The client may have disconnected.
		_ = codec.WriteError(w, err)
	}
}

// serve answers a request of an authenticated client. authorize decides about a request for a
// resource; nil allows everything.
func (h *handler) serve(w http.ResponseWriter, r *http.Request, authorize func(*request) error) error {
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
	if authorize != nil {
		if err := authorize(q); err != nil {
			return err
		}
	}
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
	return h.isNodeToken(bearerToken(r))
}

// bearerToken returns the bearer token of a request, empty if there is none.
func bearerToken(r *http.Request) string {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return ""
	}
	return strings.TrimSpace(token)
}

func (h *handler) isNodeToken(token string) bool {
	return subtle.ConstantTimeCompare([]byte(token), []byte(h.token)) == 1
}

// user returns the user of the node's token.
func (h *handler) user() string { return "system:node:" + h.node }
