package nodeapi

import (
	"context"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/petiole-io/petiole/streams"
)

// storeTimeout bounds the wait for the leaf's own disk.
const storeTimeout = 10 * time.Second

// goesUp says which local state the cloud gets. Leases are answered here: the bridge
// renews them from the site's presence.
func goesUp(gr schema.GroupResource) bool { return gr != leasesGR }

// create answers a POST to a collection.
func (a *API) create(w http.ResponseWriter, q *request) error {
	gr := q.resource.GroupResource()
	obj, err := q.object()
	if err != nil {
		return err
	}
	meta, err := obj.child("metadata")
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	k := key{q.namespace, meta.text("name")}
	if k.name == "" && meta.text("generateName") != "" {
		k.name = meta.text("generateName") + rand.String(5)
	}
	if k.name == "" {
		return apierrors.NewBadRequest("metadata.name is required")
	}
	if ns := meta.text("namespace"); ns != "" && ns != k.namespace {
		return apierrors.NewBadRequest(fmt.Sprintf("metadata.namespace is %q, the request's is %q", ns, k.namespace))
	}
	if err := a.mayCreate(gr, k, obj); err != nil {
		return err
	}
	defer a.locks.lock(gr, k)()
	if view := a.store.get(gr, k); view != nil {
		return apierrors.NewAlreadyExists(gr, k.name)
	}
	view, err := a.createAs(q, k, obj, meta)
	if err != nil {
		return err
	}
	return writeObject(w, http.StatusCreated, q.out, view)
}

// createAs stores a new local object with the fields that a server sets.
func (a *API) createAs(q *request, k key, obj, meta document) (*object, error) {
	l := &local{op: streams.OpCreate, uid: string(uuid.NewUUID())}
	meta.setText("name", k.name)
	if k.namespace != "" {
		meta.setText("namespace", k.namespace)
	}
	meta.setText("uid", l.uid)
	meta.setText("creationTimestamp", time.Now().UTC().Format(time.RFC3339))
	clean(meta)
	obj["metadata"] = meta.encode()
	l.body = obj.encode()
	return a.keep(q.Context(), q.resource, k, l, l.body)
}

// mayCreate says what a node may make by itself.
func (a *API) mayCreate(gr schema.GroupResource, k key, obj document) error {
	switch gr {
	case nodesGR, csiNodesGR:
		if k.name != a.cfg.Node {
			return apierrors.NewForbidden(gr, k.name, fmt.Errorf("this node is %s", a.cfg.Node))
		}
	case podsGR:
		if peek(obj["metadata"], "annotations", mirrorAnnotation) == "" || peek(obj["spec"], "nodeName") != a.cfg.Node {
			return apierrors.NewForbidden(gr, k.name, fmt.Errorf("only mirror pods of %s can be created here: %w", a.cfg.Node, errCloud))
		}
	}
	return nil
}

// change answers PUT and PATCH.
func (a *API) change(w http.ResponseWriter, q *request) error {
	gr := q.resource.GroupResource()
	defer a.locks.lock(gr, q.key)()
	view, want, live, l := a.store.known(gr, q.key)
	if view == nil {
		if gr == leasesGR && q.verb == "update" {
			return a.renewUnknown(w, q)
		}
		return apierrors.NewNotFound(gr, q.name)
	}
	next, err := q.next(view)
	if err != nil {
		return err
	}
	if err := q.checkIdentity(view, next); err != nil {
		return err
	}
	plan, err := a.plan(q, state{view: view, want: want, live: live, local: l}, next)
	if err != nil {
		return err
	}
	if plan.local != nil {
		if view, err = a.keep(q.Context(), q.resource, q.key, plan.local, plan.up); err != nil {
			return err
		}
		if view == nil {
			return apierrors.NewNotFound(gr, q.name)
		}
	}
	return writeObject(w, http.StatusOK, q.out, view)
}

// state is what a change builds upon.
type state struct {
	view  *object
	want  desired
	live  bool
	local *local
}

// plan is what a change amounts to: the new local state, nil when nothing changes,
// and the object to report.
type plan struct {
	local *local
	up    []byte
}

func (a *API) plan(q *request, s state, next document) (plan, error) {
	switch q.resource.GroupResource() {
	case podsGR:
		return a.planPodStatus(q, s, next)
	case nodesGR:
		return a.planNode(q, s, next)
	}
	current, err := parseDocument(s.view.json)
	if err != nil || sameDocument(current, next) {
		return plan{}, err
	}
	body, err := withIdentityOf(current, next)
	if err != nil {
		return plan{}, apierrors.NewBadRequest(err.Error())
	}
	return plan{local: &local{op: streams.OpPut, uid: s.view.uid, body: body}, up: body}, nil
}

// withIdentityOf is next under current's UID and creation time.
func withIdentityOf(current, next document) ([]byte, error) {
	was, err := current.child("metadata")
	if err != nil {
		return nil, err
	}
	meta, err := next.child("metadata")
	if err != nil {
		return nil, err
	}
	for _, f := range []string{"name", "namespace", "uid", "creationTimestamp"} {
		if v, ok := was[f]; ok {
			meta[f] = v
		}
	}
	clean(meta)
	next["metadata"] = meta.encode()
	return next.encode(), nil
}

// clean drops the metadata that belongs to one server only.
func clean(meta document) {
	for _, f := range []string{"resourceVersion", "managedFields", "selfLink", "generateName"} {
		delete(meta, f)
	}
}

// checkIdentity refuses a write that is meant for another object, or for another
// version of this one.
func (q *request) checkIdentity(view *object, next document) error {
	gr := q.resource.GroupResource()
	meta, err := next.child("metadata")
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if n := meta.text("name"); n != view.name {
		return apierrors.NewBadRequest(fmt.Sprintf("metadata.name is %q, the request's is %q", n, view.name))
	}
	if uid := meta.text("uid"); uid != "" && uid != view.uid {
		return apierrors.NewConflict(gr, q.name, fmt.Errorf("precondition failed: UID in precondition: %s, UID in object meta: %s", uid, view.uid))
	}
	if rv := meta.text("resourceVersion"); rv != "" && rv != strconv.FormatUint(view.rv, 10) {
		return apierrors.NewConflict(gr, q.name, fmt.Errorf("the object has been modified; please apply your changes to the latest version and try again"))
	}
	return nil
}

// keep makes local state durable and then visible. The answer waits for the disk, and
// a client that leaves meanwhile changes nothing.
func (a *API) keep(ctx context.Context, r resource, k key, l *local, up []byte) (*object, error) {
	gr := r.GroupResource()
	if gr == eventsGR {
		defer a.janitor.wake()
	}
	if goesUp(gr) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
		defer cancel()
		ref := streams.Ref{Node: a.cfg.Node, Group: r.Group, Resource: r.Resource, Namespace: k.namespace, Name: k.name}
		seq, err := streams.Put(ctx, a.cfg.JS, streams.LocalReportedSubject(ref),
			streams.Message{Ref: ref, Op: l.op, UID: l.uid, Version: l.version, Object: up}, putOptions(gr)...)
		if err != nil {
			a.log.Warn("local store refused a write", zap.Stringer("object", ref), zap.Error(err))
			return nil, apierrors.NewServiceUnavailable("the leaf's store did not take the write: " + err.Error())
		}
		l.node, l.seq = a.cfg.Node, seq
	}
	view, err := a.store.report(r, k, l)
	if err == nil && gr == eventsGR {
		a.events.add(k, l.seq, time.Now())
	}
	return view, err
}

// remove answers a DELETE.
func (a *API) remove(w http.ResponseWriter, q *request) error {
	gr := q.resource.GroupResource()
	opts, err := q.deleteOptions()
	if err != nil {
		return err
	}
	defer a.locks.lock(gr, q.key)()
	view, want, live, _ := a.store.known(gr, q.key)
	if view == nil {
		return apierrors.NewNotFound(gr, q.name)
	}
	if p := opts.Preconditions; p != nil && (p.UID != nil && string(*p.UID) != view.uid ||
		p.ResourceVersion != nil && *p.ResourceVersion != strconv.FormatUint(view.rv, 10)) {
		return apierrors.NewConflict(gr, q.name, fmt.Errorf("the precondition is not met: the object's UID is %s, its version %d", view.uid, view.rv))
	}
	switch gr {
	case podsGR:
		if err := a.mayDeletePod(view, live, opts); err != nil {
			return err
		}
	case csiNodesGR:
		if q.name != a.cfg.Node {
			return apierrors.NewForbidden(gr, q.name, fmt.Errorf("this node is %s", a.cfg.Node))
		}
	}
	// A delete that the cloud gets is a report like any other: the last on its subject.
	if goesUp(gr) {
		l := &local{op: streams.OpDelete, uid: view.uid}
		if live {
			l.version, l.answers = want.version, want.arrived
		}
		_, err = a.keep(q.Context(), q.resource, q.key, l, nil)
	} else {
		_, err = a.store.report(q.resource, q.key, nil)
	}
	if err != nil {
		return err
	}
	return writeObject(w, http.StatusOK, q.out, view)
}

func (q *request) deleteOptions() (metav1.DeleteOptions, error) {
	var opts metav1.DeleteOptions
	values := q.URL.Query()
	if err := metav1.Convert_url_Values_To_v1_DeleteOptions(&values, &opts, nil); err != nil {
		return opts, apierrors.NewBadRequest(err.Error())
	}
	data, err := io.ReadAll(q.Body)
	if err != nil || len(data) == 0 {
		return opts, err
	}
	kind := schema.GroupVersionKind{Version: "v1", Kind: "DeleteOptions"}
	if mediaType(q.Header.Get("Content-Type")) == protoType {
		if data, err = fromProto(data, kind); err != nil {
			return opts, apierrors.NewBadRequest(err.Error())
		}
	}
	obj, err := typed(kind, data)
	if err != nil {
		return opts, apierrors.NewBadRequest(err.Error())
	}
	return *obj.(*metav1.DeleteOptions), nil
}

// object reads the request's body, whose kind must be the resource's.
func (q *request) object() (document, error) {
	data, err := io.ReadAll(q.Body)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	kind := q.resource.gvk()
	switch ct := mediaType(q.Header.Get("Content-Type")); ct {
	case protoType:
		if !scheme.Recognizes(kind) {
			return nil, unsupportedMedia(ct)
		}
		if data, err = fromProto(data, kind); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	case jsonType, "":
	default:
		return nil, unsupportedMedia(ct)
	}
	return q.valid(data)
}

// valid opens an object and checks it against the type of its kind.
func (q *request) valid(data []byte) (document, error) {
	d, err := parseDocument(data)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	kind := q.resource.gvk()
	if k := d.text("kind"); k != "" && k != kind.Kind {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the body is a %s, not a %s", k, kind.Kind))
	}
	if v := d.text("apiVersion"); v != "" && v != kind.GroupVersion().String() {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the body is of %s, not of %s", v, kind.GroupVersion()))
	}
	d.setText("kind", kind.Kind)
	d.setText("apiVersion", kind.GroupVersion().String())
	if scheme.Recognizes(kind) {
		if _, err := typed(kind, data); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	}
	return d, nil
}

func mediaType(header string) string {
	t, _, err := mime.ParseMediaType(header)
	if err != nil {
		return header
	}
	return t
}
