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

const (
	// storeTimeout is the timeout of requests to the leaf's own JetStream.
	storeTimeout = 10 * time.Second
	// writeLocks is the number of locks that serialize writes. It is much larger than the
	// number of concurrent writes, so that few writes to different objects share a lock.
	writeLocks = 256
)

// lock serializes the writes to an object, while writes to other objects wait for the disk
// concurrently. It returns the function that unlocks the object. No caller may hold two
// locks.
func (a *API) lock(gr schema.GroupResource, k key) (unlock func()) {
	id := gr.String() + " " + k.String()
	a.locks.LockKey(id)
	return func() { _ = a.locks.UnlockKey(id) } // a hashed mutex never returns an error
}

// isReported reports whether the local state of a resource is reported to the cloud. Leases
// are not: the bridge renews them from the site's heartbeats.
func isReported(gr schema.GroupResource) bool { return gr != leasesGR }

// create handles a POST to a collection.
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
	if err := a.authorizeCreate(gr, k, obj); err != nil {
		return err
	}
	defer a.lock(gr, k)()
	if a.store.get(gr, k) != nil {
		return apierrors.NewAlreadyExists(gr, k.name)
	}
	effective, err := a.createObject(q, k, obj, meta)
	if err != nil {
		return err
	}
	return writeObject(w, http.StatusCreated, q.out, effective)
}

// createObject stores a new local object with the metadata that a server sets.
func (a *API) createObject(q *request, k key, obj, meta document) (*object, error) {
	l := &local{op: streams.OpCreate, uid: string(uuid.NewUUID())}
	meta.setText("name", k.name)
	if k.namespace != "" {
		meta.setText("namespace", k.namespace)
	}
	meta.setText("uid", l.uid)
	meta.setText("creationTimestamp", time.Now().UTC().Format(time.RFC3339))
	removeServerFields(meta)
	obj["metadata"] = meta.encode()
	l.body = obj.encode()
	return a.storeLocal(q.Context(), q.resource, k, l, l.body)
}

// authorizeCreate returns an error if the node may not create the object.
func (a *API) authorizeCreate(gr schema.GroupResource, k key, obj document) error {
	switch gr {
	case nodesGR, csiNodesGR:
		if k.name != a.cfg.Node {
			return apierrors.NewForbidden(gr, k.name, fmt.Errorf("this node is %s", a.cfg.Node))
		}
	case podsGR:
		if peek(obj["metadata"], "annotations", mirrorAnnotation) == "" || peek(obj["spec"], "nodeName") != a.cfg.Node {
			return apierrors.NewForbidden(gr, k.name, fmt.Errorf("only mirror pods of %s can be created here: %w", a.cfg.Node, errCloudOnly))
		}
	}
	return nil
}

// update handles PUT and PATCH.
func (a *API) update(w http.ResponseWriter, q *request) error {
	gr := q.resource.GroupResource()
	defer a.lock(gr, q.key)()
	s := a.store.state(gr, q.key)
	if s.effective == nil {
		if gr == leasesGR && q.verb == "update" {
			return a.recreateLease(w, q)
		}
		return apierrors.NewNotFound(gr, q.name)
	}
	next, err := q.next(s.effective)
	if err != nil {
		return err
	}
	if err := q.checkIdentity(s.effective, next); err != nil {
		return err
	}
	plan, err := a.plan(q, s, next)
	if err != nil {
		return err
	}
	effective := s.effective
	if plan.local != nil {
		if effective, err = a.storeLocal(q.Context(), q.resource, q.key, plan.local, plan.report); err != nil {
			return err
		}
		if effective == nil {
			return apierrors.NewNotFound(gr, q.name)
		}
	}
	return writeObject(w, http.StatusOK, q.out, effective)
}

// state is the state of an object that a write starts from.
type state struct {
	effective *object
	desired   desired
	live      bool
	local     *local
}

// plan is the outcome of an update: the new local state, nil if nothing changes, and the
// object to report.
type plan struct {
	local  *local
	report []byte
}

func (a *API) plan(q *request, s state, next document) (plan, error) {
	switch q.resource.GroupResource() {
	case podsGR:
		return a.planPodStatus(q, s, next)
	case nodesGR:
		return a.planNode(q, s, next)
	}
	current, err := parseDocument(s.effective.json)
	if err != nil || sameDocument(current, next) {
		return plan{}, err
	}
	body, err := withIdentityOf(current, next)
	if err != nil {
		return plan{}, apierrors.NewBadRequest(err.Error())
	}
	return plan{local: &local{op: streams.OpPut, uid: s.effective.uid, body: body}, report: body}, nil
}

// withIdentityOf returns next with the name, UID and creation time of current.
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
	removeServerFields(meta)
	next["metadata"] = meta.encode()
	return next.encode(), nil
}

// removeServerFields removes the metadata that is only valid on the server that set it.
func removeServerFields(meta document) {
	for _, f := range []string{"resourceVersion", "managedFields", "selfLink", "generateName"} {
		delete(meta, f)
	}
}

// checkIdentity returns an error if a write is meant for another object or for another
// version of the object.
func (q *request) checkIdentity(effective *object, next document) error {
	gr := q.resource.GroupResource()
	meta, err := next.child("metadata")
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if n := meta.text("name"); n != effective.name {
		return apierrors.NewBadRequest(fmt.Sprintf("metadata.name is %q, the request's is %q", n, effective.name))
	}
	if uid := meta.text("uid"); uid != "" && uid != effective.uid {
		return apierrors.NewConflict(gr, q.name, fmt.Errorf("precondition failed: UID in precondition: %s, UID in object meta: %s", uid, effective.uid))
	}
	if rv := meta.text("resourceVersion"); rv != "" && rv != strconv.FormatUint(effective.rv, 10) {
		return apierrors.NewConflict(gr, q.name, fmt.Errorf("the object has been modified; please apply your changes to the latest version and try again"))
	}
	return nil
}

// storeLocal stores local state and then makes it visible. It returns after the state is
// stored, even if the client disconnects in the meantime.
func (a *API) storeLocal(ctx context.Context, r resource, k key, l *local, up []byte) (*object, error) {
	gr := r.GroupResource()
	if gr == eventsGR {
		defer a.gc.wake()
	}
	if isReported(gr) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
		defer cancel()
		ref := streams.Ref{Node: a.cfg.Node, Group: r.Group, Resource: r.Resource, Namespace: k.namespace, Name: k.name}
		seq, err := streams.Put(ctx, a.cfg.JS, streams.LocalReportedSubject(ref),
			streams.Message{Ref: ref, Op: l.op, UID: l.uid, Version: l.version, Object: up}, putOptions(gr)...)
		if err != nil {
			a.log.Warn("store local state", zap.Stringer("object", ref), zap.Error(err))
			return nil, apierrors.NewServiceUnavailable("the leaf's store rejected the write: " + err.Error())
		}
		l.node, l.seq = a.cfg.Node, seq
	}
	effective, err := a.store.setLocal(r, k, l)
	if err == nil && gr == eventsGR {
		a.events.add(k, l.seq, time.Now())
	}
	return effective, err
}

// delete handles a DELETE.
func (a *API) delete(w http.ResponseWriter, q *request) error {
	gr := q.resource.GroupResource()
	opts, err := q.deleteOptions()
	if err != nil {
		return err
	}
	defer a.lock(gr, q.key)()
	s := a.store.state(gr, q.key)
	effective := s.effective
	if effective == nil {
		return apierrors.NewNotFound(gr, q.name)
	}
	if p := opts.Preconditions; p != nil && (p.UID != nil && string(*p.UID) != effective.uid ||
		p.ResourceVersion != nil && *p.ResourceVersion != strconv.FormatUint(effective.rv, 10)) {
		return apierrors.NewConflict(gr, q.name, fmt.Errorf("the precondition is not met: the object's UID is %s, its version %d", effective.uid, effective.rv))
	}
	switch gr {
	case podsGR:
		if err := a.authorizePodDelete(effective, s.live, opts); err != nil {
			return err
		}
	case csiNodesGR:
		if q.name != a.cfg.Node {
			return apierrors.NewForbidden(gr, q.name, fmt.Errorf("this node is %s", a.cfg.Node))
		}
	}
	// A deletion is reported like any other state: as the last message on its subject.
	if isReported(gr) {
		l := &local{op: streams.OpDelete, uid: effective.uid}
		if s.live {
			l.version, l.inReplyTo = s.desired.version, s.desired.arrival
		}
		_, err = a.storeLocal(q.Context(), q.resource, q.key, l, nil)
	} else {
		_, err = a.store.setLocal(q.resource, q.key, nil)
	}
	if err != nil {
		return err
	}
	return writeObject(w, http.StatusOK, q.out, effective)
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

// object decodes the request's body, which must be of the resource's kind.
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

// valid parses an object and validates it against the type of its kind.
func (q *request) valid(data []byte) (document, error) {
	d, err := parseDocument(data)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	kind := q.resource.gvk()
	if k := d.text("kind"); k != "" && k != kind.Kind {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the kind of the body is %s, want %s", k, kind.Kind))
	}
	if v := d.text("apiVersion"); v != "" && v != kind.GroupVersion().String() {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the apiVersion of the body is %s, want %s", v, kind.GroupVersion()))
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
