package objects

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

// Key identifies an object within its resource.
type Key struct{ Namespace, Name string }

func (k Key) String() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// Object is one version of an object, as clients see it. It is shared by the store, the
// history and all watchers, and must not be modified.
type Object struct {
	Key
	Kind schema.GroupVersionKind
	// ResourceVersion is the one of this API, not of the cloud.
	ResourceVersion uint64
	UID             string
	labels          labels.Set
	// selectable holds the fields that field selectors can use, besides name and namespace.
	selectable map[string]string
	// mounts holds the ConfigMaps and Secrets that a pod mounts.
	mounts []Mount
	// digest is the digest of everything but the resource version.
	digest [sha256.Size]byte
	// JSON is the whole object, with its resource version.
	JSON []byte
	// encoded is the last result of Encoded, as long as it has not been freed.
	encoded atomic.Pointer[weak.Pointer[[]byte]]
}

// newObject returns the object in d as version rv. It modifies d.
func newObject(r Resource, k Key, d Document, rv uint64) (*Object, error) {
	meta, err := d.Child("metadata")
	if err != nil {
		return nil, err
	}
	o := &Object{Key: k, Kind: r.GVK(), ResourceVersion: rv, UID: meta.Text("uid")}
	if !IsEmpty(meta["labels"]) {
		if err := json.Unmarshal(meta["labels"], &o.labels); err != nil {
			return nil, fmt.Errorf("metadata.labels: %w", err)
		}
	}
	delete(meta, "resourceVersion")
	d["metadata"] = meta.Encode()
	o.digest = sha256.Sum256(d.Encode())
	o.selectable = selectableOf(r.GroupResource(), d)
	if r.GroupResource() == Pods {
		if o.mounts, err = mountedBy(d["spec"]); err != nil {
			return nil, err
		}
	}
	meta.SetText("resourceVersion", strconv.FormatUint(rv, 10))
	d["metadata"] = meta.Encode()
	o.JSON = d.Encode()
	return o, nil
}

// withVersion returns the same object with another resource version, for a DELETED event.
func (o *Object) withVersion(rv uint64) (*Object, error) {
	d, err := ParseDocument(o.JSON)
	if err != nil {
		return nil, err
	}
	meta, err := d.Child("metadata")
	if err != nil {
		return nil, err
	}
	meta.SetText("resourceVersion", strconv.FormatUint(rv, 10))
	d["metadata"] = meta.Encode()
	return &Object{
		Key: o.Key, Kind: o.Kind, ResourceVersion: rv, UID: o.UID, labels: o.labels, selectable: o.selectable,
		mounts: o.mounts, digest: o.digest, JSON: d.Encode(),
	}, nil
}

// Encoded returns the result of encode. Concurrent callers share one copy, which the object
// does not keep alive. encode must be the same function for all callers.
func (o *Object) Encoded(encode func(*Object) ([]byte, error)) ([]byte, error) {
	if p := o.encoded.Load(); p != nil {
		if b := p.Value(); b != nil {
			return *b, nil
		}
	}
	b, err := encode(o)
	if err != nil {
		return nil, err
	}
	p := weak.Make(&b)
	o.encoded.Store(&p)
	return b, nil
}

// fieldPaths holds the selectable fields of each resource, besides metadata.name and
// metadata.namespace: those of the API server that clients of a node use.
var fieldPaths = map[schema.GroupResource]map[string]string{
	Pods: same("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
		"spec.hostNetwork", "status.phase", "status.podIP", "status.nominatedNodeName"),
	Nodes:                    same("spec.unschedulable"),
	{Resource: "services"}:   same("spec.clusterIP", "spec.type"),
	Secrets:                  same("type"),
	{Resource: "namespaces"}: same("status.phase"),
	Events: {
		"involvedObject.kind": "involvedObject.kind", "involvedObject.namespace": "involvedObject.namespace",
		"involvedObject.name": "involvedObject.name", "involvedObject.uid": "involvedObject.uid",
		"involvedObject.apiVersion": "involvedObject.apiVersion", "involvedObject.fieldPath": "involvedObject.fieldPath",
		"involvedObject.resourceVersion": "involvedObject.resourceVersion", "reason": "reason", "type": "type",
		"reportingComponent": "reportingComponent", "source": "source.component",
	},
	PodCertificateRequests: same("spec.nodeName", "spec.signerName"),
	{Group: "certificates.k8s.io", Resource: "clustertrustbundles"}: same("spec.signerName"),
	{Group: "resource.k8s.io", Resource: "resourceslices"}:          same("spec.nodeName", "spec.driver"),
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

func selectableOf(gr schema.GroupResource, d Document) map[string]string {
	paths := fieldPaths[gr]
	if len(paths) == 0 {
		return nil
	}
	out := make(map[string]string, len(paths))
	for label, path := range paths {
		p := strings.Split(path, ".")
		v := Peek(d[p[0]], p[1:]...)
		if v == "" && falseByDefault[label] {
			v = "false"
		}
		if v != "" {
			out[label] = v
		}
	}
	return out
}

// Selectable reports whether field selectors can use a field of a resource.
func Selectable(gr schema.GroupResource, field string) bool {
	_, ok := fieldPaths[gr][field]
	return ok || field == "metadata.name" || field == "metadata.namespace"
}

// Has reports whether a selectable field has a value. Has and Get implement fields.Fields.
func (o *Object) Has(field string) bool { return o.Get(field) != "" }

// Get returns the value of a selectable field, empty if it has none.
func (o *Object) Get(field string) string {
	switch field {
	case "metadata.name":
		return o.Name
	case "metadata.namespace":
		return o.Namespace
	}
	return o.selectable[field]
}
