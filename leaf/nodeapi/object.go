package nodeapi

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"weak"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// key identifies an object within its resource.
type key struct{ namespace, name string }

func (k key) String() string {
	if k.namespace == "" {
		return k.name
	}
	return k.namespace + "/" + k.name
}

// object is one version of a served object. It is immutable and shared by the store, the
// history and all watchers.
type object struct {
	key
	kind   schema.GroupVersionKind
	rv     uint64
	uid    string
	labels labels.Set
	// selectable holds the fields that field selectors can use, besides name and namespace.
	selectable map[string]string
	// mounts holds the ConfigMaps and Secrets that a pod mounts.
	mounts []mountedRef
	// digest is the digest of everything but the resource version.
	digest [sha256.Size]byte
	json   []byte
	// proto is the object in protobuf as long as it is in use.
	proto atomic.Pointer[weak.Pointer[[]byte]]
}

// newObject returns the object in d as version rv. It modifies d.
func newObject(r resource, k key, d document, rv uint64) (*object, error) {
	meta, err := d.child("metadata")
	if err != nil {
		return nil, err
	}
	o := &object{key: k, kind: r.gvk(), rv: rv, uid: meta.text("uid")}
	if !isEmpty(meta["labels"]) {
		if err := json.Unmarshal(meta["labels"], &o.labels); err != nil {
			return nil, fmt.Errorf("metadata.labels: %w", err)
		}
	}
	delete(meta, "resourceVersion")
	d["metadata"] = meta.encode()
	o.digest = sha256.Sum256(d.encode())
	o.selectable = selectableOf(r.GroupResource(), d)
	if r.GroupResource() == podsGR {
		if o.mounts, err = mountedBy(d["spec"]); err != nil {
			return nil, err
		}
	}
	meta.setText("resourceVersion", strconv.FormatUint(rv, 10))
	d["metadata"] = meta.encode()
	o.json = d.encode()
	return o, nil
}

// withVersion returns the same object with another resource version, for a DELETED event.
func (o *object) withVersion(rv uint64) (*object, error) {
	d, err := parseDocument(o.json)
	if err != nil {
		return nil, err
	}
	meta, err := d.child("metadata")
	if err != nil {
		return nil, err
	}
	meta.setText("resourceVersion", strconv.FormatUint(rv, 10))
	d["metadata"] = meta.encode()
	return &object{
		key: o.key, kind: o.kind, rv: rv, uid: o.uid, labels: o.labels, selectable: o.selectable,
		mounts: o.mounts, digest: o.digest, json: d.encode(),
	}, nil
}

// fieldPaths holds the selectable fields of each resource, besides metadata.name and
// metadata.namespace: those of the API server that clients of a node use.
var fieldPaths = map[schema.GroupResource]map[string]string{
	podsGR: same("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
		"spec.hostNetwork", "status.phase", "status.podIP", "status.nominatedNodeName"),
	nodesGR:                  same("spec.unschedulable"),
	{Resource: "services"}:   same("spec.clusterIP", "spec.type"),
	secretsGR:                same("type"),
	{Resource: "namespaces"}: same("status.phase"),
	eventsGR: {
		"involvedObject.kind": "involvedObject.kind", "involvedObject.namespace": "involvedObject.namespace",
		"involvedObject.name": "involvedObject.name", "involvedObject.uid": "involvedObject.uid",
		"involvedObject.apiVersion": "involvedObject.apiVersion", "involvedObject.fieldPath": "involvedObject.fieldPath",
		"involvedObject.resourceVersion": "involvedObject.resourceVersion", "reason": "reason", "type": "type",
		"reportingComponent": "reportingComponent", "source": "source.component",
	},
	{Group: "certificates.k8s.io", Resource: "podcertificaterequests"}: same("spec.nodeName", "spec.signerName"),
	{Group: "certificates.k8s.io", Resource: "clustertrustbundles"}:    same("spec.signerName"),
	resourceSlicesGR: same("spec.nodeName", "spec.driver"),
}

// falseByDefault holds the selectable booleans that JSON omits when they are false.
var falseByDefault = map[string]bool{"spec.hostNetwork": true, "spec.unschedulable": true}

func same(paths ...string) map[string]string {
	m := make(map[string]string, len(paths))
	for _, p := range paths {
		m[p] = p
	}
	return m
}

func selectableOf(gr schema.GroupResource, d document) map[string]string {
	paths := fieldPaths[gr]
	if len(paths) == 0 {
		return nil
	}
	out := make(map[string]string, len(paths))
	for label, path := range paths {
		p := strings.Split(path, ".")
		v := peek(d[p[0]], p[1:]...)
		if v == "" && falseByDefault[label] {
			v = "false"
		}
		if v != "" {
			out[label] = v
		}
	}
	return out
}

// Has and Get implement fields.Fields.
func (o *object) Has(field string) bool { return o.Get(field) != "" }

func (o *object) Get(field string) string {
	switch field {
	case "metadata.name":
		return o.name
	case "metadata.namespace":
		return o.namespace
	}
	return o.selectable[field]
}
