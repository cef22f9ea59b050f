package writeback

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/bounds"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/liveness"
	"github.com/petiole-io/petiole/streams"
)

var (
	// ErrNodeNotAlive marks a report that must not be written now, because its node sends no
	// heartbeats and what Kubernetes says about the node is correct. It waits for the node.
	ErrNodeNotAlive = errors.New("node is not alive")
	// ErrNodeNotRegistered marks a report about a node that has not registered yet.
	ErrNodeNotRegistered = errors.New("node is not registered")
)

// Cache returns the last known state of an object, nil if there is none.
type Cache interface {
	Get(k kube.Key) *unstructured.Unstructured
}

// Sites knows the Sites and their nodes.
type Sites interface {
	SiteExists(site string) bool
	// NodesOf returns the nodes of a site, SiteOf the site of a node, empty if it is unknown.
	NodesOf(site string) []string
	SiteOf(node string) string
	// BoundTo returns the pods and devices of nodes.
	BoundTo(nodes []string) []kube.Key
}

// Names decides which Site has which node name.
type Names interface {
	// Claim records that a Site has a name. It returns a *names.Refusal if it cannot have it.
	// present are the nodes of the Site.
	Claim(ctx context.Context, site, node string, present []string) error
	// Spec returns the SiteNodes of a Site, nil if it has none.
	Spec(site string) *v1alpha1.SiteNodes
}

// Config is what a Writer needs.
type Config struct {
	Clients  *kube.Clients
	Cache    Cache
	Sites    Sites
	Names    Names
	Problems *bounds.Problems
	Liveness *liveness.Tracker
	// Deleted holds the nodes that were deleted in the API.
	Deleted *DeletedNodes
	// Kubelets is where the API server reaches the kubelets; the zero value leaves what they report.
	Kubelets Endpoint
	Log      *zap.Logger
}

// alive reports whether a node is alive, and when it was last seen.
func (c Config) alive(site, node string) (bool, time.Time) {
	return c.Liveness.Alive(site, node, time.Now())
}

// checkSize returns an error that is kube.ErrRefused, and records the problem, if an object has
// more bytes than it may have.
func (c Config) checkSize(r Report, what string, bytes, limit int) error {
	if bytes <= limit {
		return nil
	}
	message := fmt.Sprintf("%s of %s has %d bytes, the limit is %d", what, r.Ref, bytes, limit)
	c.Problems.Add(r.Site, v1alpha1.ConditionWithinLimits, v1alpha1.ReasonTooLarge, r.Ref.String(), message)
	return fmt.Errorf("%w: %s", kube.ErrRefused, message)
}

// Report is what a site reports about one object.
type Report struct {
	Site string
	streams.Message
	// New is true until the API server has accepted the report.
	New bool
}

// Writer writes reports to the API server. It is safe for concurrent use if one caller at a
// time writes reports about an object.
type Writer struct {
	cfg      Config
	pods     podWriter
	nodes    nodeWriter
	devices  deviceWriter
	csiNodes csiNodeWriter
	events   eventWriter
}

// New returns a writer.
func New(cfg Config) *Writer {
	return &Writer{cfg, podWriter{cfg, newMirrorPods()}, nodeWriter{cfg}, deviceWriter{cfg}, csiNodeWriter{cfg}, eventWriter{cfg}}
}

// Write writes one report. It returns nil if the API server has the reported state.
func (w *Writer) Write(ctx context.Context, r Report) error {
	if err := CheckRef(r.Ref); err != nil {
		return err
	}
	kind := r.Ref.Resource
	if r.Ref.Group != "" {
		kind += "." + r.Ref.Group
	}
	if kind == "nodes" {
		return w.nodes.write(ctx, r)
	}
	if err := w.checkOwner(r.Site, r.Ref.Node); err != nil {
		if kube.IsCSINode(r.Ref) && errors.Is(err, ErrNodeNotRegistered) {
			return csiNodeWithoutNode(r, err)
		}
		return err
	}
	switch {
	case kube.IsCSINode(r.Ref) && r.Op == streams.OpDelete:
		return w.csiNodes.delete(ctx, r)
	case kind == "pods" && r.Op == streams.OpDelete:
		return w.pods.delete(ctx, r)
	case kind == "pods" && r.Op == streams.OpCreate:
		return w.pods.createMirror(ctx, r)
	case kind == "pods":
		return w.pods.writeStatus(ctx, r)
	case r.Op == streams.OpDelete:
		return fmt.Errorf("%w: a site deletes pods and CSINodes only, not %s", kube.ErrRefused, r.Ref)
	case kind == "events", kind == "events.events.k8s.io":
		return w.events.write(ctx, r)
	case kind == "csinodes."+kube.StorageGroup:
		return w.csiNodes.write(ctx, r)
	case kind == "devicestatuses."+kube.DeviceGroup:
		return w.devices.write(ctx, r)
	}
	return fmt.Errorf("%w: %s is not a resource that sites report", kube.ErrRefused, r.Ref)
}

// Exists reports whether the object of a report exists in the API.
func (w *Writer) Exists(r streams.Ref) bool { return w.cfg.Cache.Get(objectOf(r)) != nil }

// Owns reports whether the object of a report exists and is bound to a node of the reporting
// site.
func (w *Writer) Owns(site string, ref streams.Ref) bool {
	subject := objectOf(ref)
	o := w.cfg.Cache.Get(subject)
	if o == nil || w.checkOwner(site, ref.Node) != nil {
		return false
	}
	if subject.BindsToNode() {
		return kube.StringAt(o, "spec", "nodeName") == ref.Node
	}
	return subject.Name == ref.Node
}

// objectOf returns the object on which a report depends: the device for a device status, the
// node for a CSINode.
func objectOf(r streams.Ref) kube.Key {
	o := kube.KeyOf(r)
	switch {
	case o.Group == kube.DeviceGroup && o.Resource == "devicestatuses":
		o.Resource = "devices"
	case kube.IsCSINode(r):
		o = kube.CoreKey("nodes", "", o.Name)
	}
	return o
}

// CheckRef returns an error that is kube.ErrRefused if no object can have the names in r.
func CheckRef(r streams.Ref) error {
	if r.Node == "" {
		return fmt.Errorf("%w: %s names no node", kube.ErrRefused, r)
	}
	if problems := validation.NameIsDNSSubdomain(r.Node, false); len(problems) > 0 {
		return fmt.Errorf("%w: node %q of %q: %s", kube.ErrRefused, r.Node, r, strings.Join(problems, ", "))
	}
	if r.Namespace != "" {
		if problems := validation.ValidateNamespaceName(r.Namespace, false); len(problems) > 0 {
			return fmt.Errorf("%w: namespace %q of %q: %s", kube.ErrRefused, r.Namespace, r, strings.Join(problems, ", "))
		}
	}
	if problems := content.IsPathSegmentName(r.Name); len(problems) > 0 {
		return fmt.Errorf("%w: name %q of %q: %s", kube.ErrRefused, r.Name, r, strings.Join(problems, ", "))
	}
	return nil
}

// checkOwner returns an error unless the node carries the site's label, which is set when it
// registers.
func (w *Writer) checkOwner(site, node string) error {
	o := w.cfg.Cache.Get(kube.CoreKey("nodes", "", node))
	if o == nil {
		return fmt.Errorf("%w: %s", ErrNodeNotRegistered, node)
	}
	if owner := o.GetLabels()[v1alpha1.SiteLabel]; owner != site {
		return fmt.Errorf("%w: node %s belongs to site %q, not to %s", kube.ErrRefused, node, owner, site)
	}
	return nil
}

// statusPatch returns the strategic merge patch between two objects of one type, of which only
// the new one has the UID and the version: the patch contains them as preconditions.
func statusPatch(object string, from, to any) ([]byte, error) {
	was, err := json.Marshal(from)
	if err != nil {
		return nil, fmt.Errorf("encode status of %s: %w", object, err)
	}
	is, err := json.Marshal(to)
	if err != nil {
		return nil, fmt.Errorf("encode status of %s: %w", object, err)
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(was, is, to)
	if err != nil {
		return nil, fmt.Errorf("compare status of %s: %w", object, err)
	}
	return patch, nil
}

// clearServerFields removes the metadata that a create must not carry: what the API server sets, and
// finalizers, with which a site could keep an object, and a namespace, from being deleted.
func clearServerFields(m *metav1.ObjectMeta) {
	m.Finalizers = nil
	m.UID, m.ResourceVersion, m.Generation = "", "", 0
	m.CreationTimestamp, m.DeletionTimestamp, m.DeletionGracePeriodSeconds = metav1.Time{}, nil, nil
	m.ManagedFields = nil
}
