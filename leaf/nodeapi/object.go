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

// key names an object within its resource.
type key struct{ namespace, name string }

func (k key) String() string {
	if k.namespace == "" {
		return k.name
	}
	return k.namespace + "/" + k.name
}

// object is one served version of an object. It is immutable and shared by the store,
// the log and all watchers.
type object struct {
	key
	kind   schema.GroupVersionKind
	rv     uint64
	uid    string
	labels labels.Set
	// selectable holds the fields that selectors of this resource may name, beside
	// name and namespace.
	selectable map[string]string
	// uses holds the ConfigMaps and Secrets that a pod mounts.
	uses []use
	// digest covers everything but the resource version.
	digest [sha256.Size]byte
	json   []byte
	// proto is json in protobuf while somebody holds it.
	proto atomic.Pointer[weak.Pointer[[]byte]]
}

// newObject makes the version rv of the object in d, which it takes over.
func newObject(r resource, k key, d document, rv uint64) (*object, error) {
	meta, err := d.child("metadata")
	if err != nil {
		return nil, err
	}
	o := &object{key: k, kind: r.gvk(), rv: rv, uid: meta.text("uid")}
	if !empty(meta["labels"]) {
		if err := json.Unmarshal(meta["labels"], &o.labels); err != nil {
			return nil, fmt.Errorf("metadata.labels: %w", err)
		}
	}
	delete(meta, "resourceVersion")
	d["metadata"] = meta.encode()
	o.digest = sha256.Sum256(d.encode())
	o.selectable = selectableOf(r.GroupResource(), d)
	if r.GroupResource() == podsGR {
		if o.uses, err = mountedBy(d["spec"]); err != nil {
			return nil, err
		}
	}
	meta.setText("resourceVersion", strconv.FormatUint(rv, 10))
	d["metadata"] = meta.encode()
	o.json = d.encode()
	return o, nil
}

// at is the same content under another resource version, as a DELETED event needs.
func (o *object) at(rv uint64) (*object, error) {
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
		uses: o.uses, digest: o.digest, json: d.encode(),
	}, nil
}

// fieldPaths are the selectable fields by resource, beside metadata.name and
// metadata.namespace: those of the API server that node clients use.
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

// falseByDefault are the selectable booleans that JSON leaves out when false.
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

// Has and Get make an object its own fields.Fields.
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
