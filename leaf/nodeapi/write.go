package nodeapi

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/petiole-io/petiole/leaf/nodeapi/catalog"
	"github.com/petiole-io/petiole/leaf/nodeapi/codec"
	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
	"github.com/petiole-io/petiole/streams"
)

// create handles a POST to a collection.
func (h *handler) create(w http.ResponseWriter, q *request) error {
	gr := q.resource.GroupResource()
	obj, err := codec.ReadObject(q.Request, q.resource.GVK())
	if err != nil {
		return err
	}
	meta, err := obj.Child("metadata")
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	k := objects.Key{Namespace: q.Namespace, Name: meta.Text("name")}
	if k.Name == "" && meta.Text("generateName") != "" {
		k.Name = meta.Text("generateName") + rand.String(5)
	}
	if k.Name == "" {
		return apierrors.NewBadRequest("metadata.name is required")
	}
	if ns := meta.Text("namespace"); ns != "" && ns != k.Namespace {
		return apierrors.NewBadRequest(fmt.Sprintf("metadata.namespace is %q, the request's is %q", ns, k.Namespace))
	}
	if err := authorizeCreate(h.node, gr, k, obj); err != nil {
		return err
	}
	defer h.local.Lock(gr, k)()
	if h.store.Get(gr, k) != nil {
		return apierrors.NewAlreadyExists(gr, k.Name)
	}
	effective, err := h.createObject(q, k, obj, meta)
	if err != nil {
		return err
	}
	return codec.WriteObject(w, http.StatusCreated, q.out, effective)
}

// createObject stores a new local object with the metadata that a server sets.
func (h *handler) createObject(q *request, k objects.Key, obj, meta objects.Document) (*objects.Object, error) {
	l := &objects.Local{Op: streams.OpCreate, UID: string(uuid.NewUUID())}
	meta.SetText("name", k.Name)
	if k.Namespace != "" {
		meta.SetText("namespace", k.Namespace)
	}
	meta.SetText("uid", l.UID)
	meta.SetText("creationTimestamp", time.Now().UTC().Format(time.RFC3339))
	objects.RemoveServerFields(meta)
	obj["metadata"] = meta.Encode()
	l.Body = obj.Encode()
	return h.local.Put(q.Context(), q.resource.GroupResource(), k, l, l.Body)
}

// authorizeCreate returns an error if the node may not create the object.
func authorizeCreate(node string, gr schema.GroupResource, k objects.Key, obj objects.Document) error {
	switch gr {
	case objects.Nodes, objects.CSINodes:
		if k.Name != node {
			return apierrors.NewForbidden(gr, k.Name, fmt.Errorf("this node is %s", node))
		}
	case objects.Pods:
		if objects.Peek(obj["metadata"], "annotations", mirrorAnnotation) == "" || objects.Peek(obj["spec"], "nodeName") != node {
			return apierrors.NewForbidden(gr, k.Name, fmt.Errorf("only mirror pods of %s can be created here: %w", node, catalog.ErrCloudOnly))
		}
	}
	return nil
}

// update handles PUT and PATCH.
func (h *handler) update(w http.ResponseWriter, q *request) error {
	gr := q.resource.GroupResource()
	defer h.local.Lock(gr, q.Key)()
	s := h.store.State(gr, q.Key)
	if s.Effective == nil {
		if gr == objects.Leases && q.verb == "update" {
			return h.recreateLease(w, q)
		}
		return apierrors.NewNotFound(gr, q.Name)
	}
	next, err := q.next(s.Effective)
	if err != nil {
		return err
	}
	if err := q.checkIdentity(s.Effective, next); err != nil {
		return err
	}
	plan, err := h.plan(q, s, next)
	if err != nil {
		return err
	}
	effective := s.Effective
	if plan.local != nil {
		if effective, err = h.local.Put(q.Context(), gr, q.Key, plan.local, plan.report); err != nil {
			return err
		}
		if effective == nil {
			return apierrors.NewNotFound(gr, q.Name)
		}
	}
	return codec.WriteObject(w, http.StatusOK, q.out, effective)
}

// next returns the object that the request asks for: the body of a PUT, or the current object
// with the patch applied.
func (q *request) next(current *objects.Object) (objects.Document, error) {
	if q.verb == "update" {
		return codec.ReadObject(q.Request, q.resource.GVK())
	}
	return codec.ReadPatched(q.Request, current)
}

// plan is the outcome of an update: the new local state, nil if nothing changes, and the
// object to report.
type plan struct {
	local  *objects.Local
	report []byte
}

func (h *handler) plan(q *request, s objects.State, next objects.Document) (plan, error) {
	switch q.resource.GroupResource() {
	case objects.Pods:
		return planPodStatus(h.node, q, s, next)
	case objects.Nodes:
		return planNode(h.node, h.statusInterval, q, s, next)
	}
	current, err := objects.ParseDocument(s.Effective.JSON)
	if err != nil || objects.SameDocument(current, next) {
		return plan{}, err
	}
	body, err := withIdentityOf(current, next)
	if err != nil {
		return plan{}, apierrors.NewBadRequest(err.Error())
	}
	return plan{local: &objects.Local{Op: streams.OpPut, UID: s.Effective.UID, Body: body}, report: body}, nil
}

// withIdentityOf returns next with the name, UID and creation time of current.
func withIdentityOf(current, next objects.Document) ([]byte, error) {
	was, err := current.Child("metadata")
	if err != nil {
		return nil, err
	}
	meta, err := next.Child("metadata")
	if err != nil {
		return nil, err
	}
	for _, f := range []string{"name", "namespace", "uid", "creationTimestamp"} {
		if v, ok := was[f]; ok {
			meta[f] = v
		}
	}
	objects.RemoveServerFields(meta)
	next["metadata"] = meta.Encode()
	return next.Encode(), nil
}

// checkIdentity returns an error if a write is meant for another object or for another
// version of the object.
func (q *request) checkIdentity(effective *objects.Object, next objects.Document) error {
	gr := q.resource.GroupResource()
	meta, err := next.Child("metadata")
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if n := meta.Text("name"); n != effective.Name {
		return apierrors.NewBadRequest(fmt.Sprintf("metadata.name is %q, the request's is %q", n, effective.Name))
	}
	if uid := meta.Text("uid"); uid != "" && uid != effective.UID {
		return apierrors.NewConflict(gr, q.Name, fmt.Errorf("precondition failed: UID in precondition: %s, UID in object meta: %s", uid, effective.UID))
	}
	if rv := meta.Text("resourceVersion"); rv != "" && rv != strconv.FormatUint(effective.ResourceVersion, 10) {
		return apierrors.NewConflict(gr, q.Name, fmt.Errorf("the object has been modified; please apply your changes to the latest version and try again"))
	}
	return nil
}

// delete handles a DELETE.
func (h *handler) delete(w http.ResponseWriter, q *request) error {
	gr := q.resource.GroupResource()
	opts, err := codec.ReadDeleteOptions(q.Request)
	if err != nil {
		return err
	}
	defer h.local.Lock(gr, q.Key)()
	s := h.store.State(gr, q.Key)
	effective := s.Effective
	if effective == nil {
		return apierrors.NewNotFound(gr, q.Name)
	}
	if p := opts.Preconditions; p != nil && (p.UID != nil && string(*p.UID) != effective.UID ||
		p.ResourceVersion != nil && *p.ResourceVersion != strconv.FormatUint(effective.ResourceVersion, 10)) {
		return apierrors.NewConflict(gr, q.Name, fmt.Errorf("the precondition is not met: the object's UID is %s, its version %d", effective.UID, effective.ResourceVersion))
	}
	switch gr {
	case objects.Pods:
		if err := authorizePodDelete(h.node, effective, s.Live, opts); err != nil {
			return err
		}
	case objects.CSINodes:
		if q.Name != h.node {
			return apierrors.NewForbidden(gr, q.Name, fmt.Errorf("this node is %s", h.node))
		}
	}
	if err := h.local.Delete(q.Context(), gr, q.Key, effective.UID, s); err != nil {
		return err
	}
	return codec.WriteObject(w, http.StatusOK, q.out, effective)
}
