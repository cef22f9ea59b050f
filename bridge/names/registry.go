package names

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/util/retry"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/kube"
)

// Cache returns the last known state of an object, nil if there is none.
type Cache interface {
	Get(k kube.Key) *unstructured.Unstructured
}

// Registry knows the node names of all Sites. Create it with New. It is safe for concurrent
// use.
type Registry struct {
	sites dynamic.ResourceInterface
	cache Cache

	mu sync.Mutex
	// known holds what each Site says about its names, owners the Site that has each name.
	known  map[string]siteNames
	owners map[string]string
	// listed holds the Sites whose SiteNodes.Names have a name.
	listed map[string][]string
	// pending maps names that are being recorded to their Site.
	pending map[string]claim
}

// siteNames is the part of a Site that concerns names.
type siteNames struct {
	uid     types.UID
	created metav1.Time
	spec    *v1alpha1.SiteNodes
	owned   []string
}

// claim is a name that is being recorded in the status of a Site.
type claim struct {
	site string
	// planned is true if the Site's next status has it, false if Claim records it.
	planned bool
}

// New returns a registry that knows no Site.
func New(client dynamic.Interface, cache Cache) *Registry {
	return &Registry{
		sites: client.Resource(v1alpha1.Sites), cache: cache,
		known: map[string]siteNames{}, owners: map[string]string{}, listed: map[string][]string{}, pending: map[string]claim{},
	}
}

// SiteChanged takes over the present state of a Site. It reports whether the Site's spec has
// changed. It does not block.
func (r *Registry) SiteChanged(site string) (specChanged bool) {
	now, exists := readNames(r.cache.Get(kube.SiteKey(site)))
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.known[site]
	for _, n := range was.owned {
		if r.owners[n] == site {
			delete(r.owners, n)
		}
	}
	for _, n := range listedNames(was.spec) {
		if r.listed[n] = slices.DeleteFunc(r.listed[n], func(s string) bool { return s == site }); len(r.listed[n]) == 0 {
			delete(r.listed, n)
		}
	}
	if !exists || was.uid != now.uid {
		maps.DeleteFunc(r.pending, func(_ string, c claim) bool { return c.site == site })
	}
	if !exists {
		delete(r.known, site)
		return false
	}
	r.known[site] = now
	for _, n := range now.owned {
		if r.owners[n] == "" {
			r.owners[n] = site
		}
		if r.pending[n].site == site {
			delete(r.pending, n)
		}
	}
	for _, n := range listedNames(now.spec) {
		r.listed[n] = append(r.listed[n], site)
	}
	return !equality.Semantic.DeepEqual(was.spec, now.spec)
}

// Spec returns the SiteNodes of a Site, nil if it has none.
func (r *Registry) Spec(site string) *v1alpha1.SiteNodes {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known[site].spec
}

// Plan returns the names that a Site has from now on, to be recorded with its status, and those
// of SiteNodes.Names that it cannot have. present are the names of its Nodes. The status must be
// written with the version of the given Site as a precondition: a name may be claimed meanwhile.
func (r *Registry) Plan(s *v1alpha1.Site, present []string) (owned []string, refused []*Refusal) {
	site := s.Name
	r.mu.Lock()
	defer r.mu.Unlock()
	owned, refused = plan(situation{
		spec: s.Spec.Nodes, owned: s.Status.OwnedNodes, present: present, free: func(node string) *Refusal { return r.free(site, node) },
		// A Site without access has its gateways in the hub's configuration, or none yet.
		revoked: s.Status.Access != nil && len(s.Spec.Gateways) == 0,
	})
	maps.DeleteFunc(r.pending, func(_ string, c claim) bool { return c.site == site && c.planned })
	for _, n := range owned {
		if r.owners[n] == "" && r.pending[n].site == "" {
			r.pending[n] = claim{site, true}
		}
	}
	return owned, refused
}

// free returns nil if a Site can have a name as far as the others are concerned. The caller
// holds the lock.
func (r *Registry) free(site, node string) *Refusal {
	if owner := r.owners[node]; owner != "" && owner != site {
		return &Refusal{node, v1alpha1.ReasonNameTaken, fmt.Sprintf("the name belongs to site %s", owner)}
	}
	if c := r.pending[node]; c.site != "" && c.site != site {
		return &Refusal{node, v1alpha1.ReasonNameTaken, fmt.Sprintf("the name belongs to site %s", c.site)}
	}
	if o := r.cache.Get(kube.CoreKey("nodes", "", node)); o != nil {
		switch owner := o.GetLabels()[v1alpha1.SiteLabel]; owner {
		case site:
		case "":
			return &Refusal{node, v1alpha1.ReasonNameTaken, "a Node of that name exists and belongs to no site"}
		default:
			return &Refusal{node, v1alpha1.ReasonNameTaken, fmt.Sprintf("a Node of that name belongs to site %s", owner)}
		}
	}
	for _, other := range r.listed[node] {
		if other != site && r.owners[node] == "" && r.precedes(other, site, node) {
			return &Refusal{node, v1alpha1.ReasonNameTaken, fmt.Sprintf("spec.nodes.names of site %s has the name", other)}
		}
	}
	return nil
}

// precedes reports whether a Site that lists a name gets it rather than another one: if the
// other does not list it, or is younger. The caller holds the lock.
func (r *Registry) precedes(lister, other, node string) bool {
	if !slices.Contains(r.listed[node], other) {
		return true
	}
	a, b := r.known[lister], r.known[other]
	if a.created.Equal(&b.created) {
		return lister < other
	}
	return a.created.Before(&b.created)
}

// errSiteGone reports that a Site was deleted while a name was claimed for it.
var errSiteGone = errors.New("the Site was deleted")

// Claim records that a Site has a name, before a node registers with it. present are the names
// of the Site's Nodes. It returns a Refusal if the Site cannot have the name. If the name is
// recorded already, it makes no request.
func (r *Registry) Claim(ctx context.Context, site, node string, present []string) error {
	uid, recorded, err := r.begin(site, node, present)
	if err != nil || recorded {
		return err
	}
	if err := r.record(ctx, site, uid, node, present); err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if c := r.pending[node]; c.site == site && !c.planned {
			delete(r.pending, node)
		}
		return fmt.Errorf("record node %s in the status of site %s: %w", node, site, err)
	}
	return nil
}

// begin decides about a name and keeps it for the Site while it is being recorded.
func (r *Registry) begin(site, node string, present []string) (uid types.UID, recorded bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.known[site]
	if !ok {
		return "", false, fmt.Errorf("%w: claim node %s: %w", kube.ErrGone, node, errSiteGone)
	}
	if refusal := r.free(site, node); refusal != nil {
		return "", false, refusal
	}
	if refusal := Allowed(s.spec, r.having(site, present), node); refusal != nil {
		return "", false, refusal
	}
	if slices.Contains(s.owned, node) {
		return s.uid, true, nil
	}
	r.pending[node] = claim{site, false}
	return s.uid, false, nil
}

// having returns the names that a Site has, including those that are being recorded. The caller
// holds the lock.
func (r *Registry) having(site string, present []string) []string {
	have := slices.Concat(r.known[site].owned, present)
	for n, c := range r.pending {
		if c.site == site {
			have = append(have, n)
		}
	}
	slices.Sort(have)
	return slices.Compact(have)
}

// record adds a name to the status of a Site, in the version that the API server has now.
func (r *Registry) record(ctx context.Context, site string, uid types.UID, node string, present []string) error {
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		o, err := r.sites.Get(ctx, site, metav1.GetOptions{})
		if err != nil {
			return kube.Classify(err)
		}
		s, ok := readNames(o)
		if !ok || s.uid != uid {
			return fmt.Errorf("%w: %w", kube.ErrGone, errSiteGone)
		}
		owned := slices.Concat(s.owned, present, []string{node})
		slices.Sort(owned)
		patch, err := json.Marshal(map[string]any{
			"metadata": kube.Preconditions(o.GetUID(), o.GetResourceVersion()), "status": map[string]any{"ownedNodes": slices.Compact(owned)},
		})
		if err != nil {
			return err
		}
		_, err = r.sites.Patch(ctx, site, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
		return err
	})
}

// readNames returns the part of a Site that concerns names. It returns false if o is nil or
// cannot be read.
func readNames(o *unstructured.Unstructured) (siteNames, bool) {
	var s v1alpha1.Site
	if kube.Decode(o, &s) != nil {
		return siteNames{}, false
	}
	return siteNames{s.UID, s.CreationTimestamp, s.Spec.Nodes, s.Status.OwnedNodes}, true
}

func listedNames(spec *v1alpha1.SiteNodes) []string {
	if spec == nil {
		return nil
	}
	return spec.Names
}
