package closure

import (
	"iter"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/petiole-io/petiole/bridge/kube"
)

type keySet = sets.Set[kube.Key]

// Index computes which objects each site needs: its nodes; the pods and devices bound to
// them; everything that those refer to, transitively; the objects that name its nodes (attachments
// of volumes, requests for certificates); the trust bundles of the signers that its pods trust; the
// roles that are bound to its pods' service accounts, with the bindings; the services and endpoint slices of the pods' namespaces; what every node reads (CSI drivers, the
// ranges of services, the service of the API server); and the custom resources that its Site selects.
//
// It reads no API and has no lock; its owner serializes the calls. Set and Remove return the
// sites that a change affects; Recompute takes time in proportion to the size of one site.
type Index struct {
	sites        map[string]bool
	dependencies map[kube.Key]Dependencies

	members     map[string]keySet  // site → its nodes
	bound       map[string]keySet  // node → its pods and devices
	naming      map[string]keySet  // node → the objects that name it
	inNamespace map[string]keySet  // namespace → its services and endpoint slices
	bundles     map[string]keySet  // signer → its trust bundles
	trusting    map[string]keySet  // signer → the pods that trust it
	grants      map[Subject]keySet // subject → the bindings that grant it a role
	everywhere  keySet
	selected    selected

	// wanted maps each site to the objects that it needed at the last Recompute, each with the
	// node token of its subject. It includes objects that do not exist (yet).
	wanted   map[string]map[kube.Key]string
	wantedBy map[kube.Key]map[string]struct{}
}

// New returns an empty index.
func New() *Index {
	return &Index{
		sites: map[string]bool{}, dependencies: map[kube.Key]Dependencies{},
		members: map[string]keySet{}, bound: map[string]keySet{}, naming: map[string]keySet{}, inNamespace: map[string]keySet{},
		bundles: map[string]keySet{}, trusting: map[string]keySet{}, grants: map[Subject]keySet{}, everywhere: keySet{}, selected: newSelected(),
		wanted: map[string]map[kube.Key]string{}, wantedBy: map[kube.Key]map[string]struct{}{},
	}
}

// Set adds or updates an object and returns the sites whose closure may have changed: none if
// only the object's content changed.
func (x *Index) Set(k kube.Key, f Dependencies) []string {
	old, known := x.dependencies[k]
	if known && old.equal(f) {
		return nil
	}
	affected := x.affectedSites(k)
	x.unlink(k)
	x.dependencies[k] = f
	x.link(k, f)
	maps.Copy(affected, x.affectedSites(k))
	return slices.Sorted(maps.Keys(affected))
}

// Remove removes a deleted object and returns the sites whose closure may have changed.
func (x *Index) Remove(k kube.Key) []string {
	if _, known := x.dependencies[k]; !known {
		return nil
	}
	affected := x.affectedSites(k)
	x.unlink(k)
	delete(x.dependencies, k)
	return slices.Sorted(maps.Keys(affected))
}

// Wanting returns the sites that needed the object at their last Recompute, sorted.
func (x *Index) Wanting(k kube.Key) []string {
	return slices.Sorted(maps.Keys(x.wantedBy[k]))
}

// Node returns the node token of an object's subject at a site, and whether the site needed the
// object at its last Recompute.
func (x *Index) Node(site string, k kube.Key) (string, bool) {
	n, ok := x.wanted[site][k]
	return n, ok
}

// SiteOf returns the site of a node, empty if the node is unknown or belongs to no site.
func (x *Index) SiteOf(node string) string {
	return x.dependencies[kube.CoreKey("nodes", "", node)].Site
}

// Nodes returns the names of a site's nodes, sorted. The Site need not exist.
func (x *Index) Nodes(site string) []string {
	var names []string
	for k := range x.members[site] {
		names = append(names, k.Name)
	}
	slices.Sort(names)
	return names
}

// Exists reports whether a Site with that name exists.
func (x *Index) Exists(site string) bool { return x.sites[site] }

// Sites returns the names of the Sites that exist, in no order.
func (x *Index) Sites() iter.Seq[string] { return maps.Keys(x.sites) }

// Bound returns the pods and devices that are bound to a node, in no order.
func (x *Index) Bound(node string) iter.Seq[kube.Key] { return maps.Keys(x.bound[node]) }

// Recompute walks from a site's nodes to everything that it needs. It returns the objects that
// are new or moved to another node since the last call, and those that are no longer needed.
func (x *Index) Recompute(site string) (changed, dropped []kube.Key) {
	now := map[kube.Key]string{}
	if x.sites[site] {
		for n := range x.members[site] {
			x.visit(now, n, n.Name)
			for b := range x.bound[n.Name] {
				x.visit(now, b, n.Name)
			}
			for o := range x.naming[n.Name] {
				x.visit(now, o, n.Name)
			}
		}
		if len(now) > 0 {
			for k := range x.everywhere {
				x.visit(now, k, "")
			}
			x.visitSelected(now, site)
		}
	}
	before := x.wanted[site]
	for k, node := range now {
		if was, ok := before[k]; !ok || was != node {
			changed = append(changed, k)
		}
		if x.wantedBy[k] == nil {
			x.wantedBy[k] = map[string]struct{}{}
		}
		x.wantedBy[k][site] = struct{}{}
	}
	for k := range before {
		if _, ok := now[k]; ok {
			continue
		}
		dropped = append(dropped, k)
		delete(x.wantedBy[k], site)
		if len(x.wantedBy[k]) == 0 {
			delete(x.wantedBy, k)
		}
	}
	if len(now) == 0 {
		delete(x.wanted, site)
	} else {
		x.wanted[site] = now
	}
	return changed, dropped
}

func (x *Index) visit(now map[kube.Key]string, k kube.Key, node string) {
	if _, ok := now[k]; ok {
		return
	}
	now[k] = node
	for _, r := range x.dependencies[k].Refs {
		x.visit(now, r, "")
	}
	for _, signer := range x.dependencies[k].Trusts {
		for b := range x.bundles[signer] {
			x.visit(now, b, "")
		}
	}
	if k.Group == "" && k.Resource == "serviceaccounts" {
		for _, s := range subjects(k) {
			for b := range x.grants[s] {
				x.visit(now, b, "")
			}
		}
	}
	if k.Group == "" && k.Resource == "namespaces" {
		for s := range x.inNamespace[k.Name] {
			x.visit(now, s, "")
		}
	}
}

// affectedSites returns the sites whose closure depends on the object as it is linked now.
func (x *Index) affectedSites(k kube.Key) map[string]struct{} {
	out := map[string]struct{}{}
	add := func(sites map[string]struct{}) { maps.Copy(out, sites) }
	f := x.dependencies[k]
	switch {
	case k.IsSelected():
		return x.selecting(k, f)
	case k.Resource == "sites", k.Resource == "nodes":
		if f.Site != "" {
			out[f.Site] = struct{}{}
		}
	case k.BindsToNode(), k.NamesNode():
		if site := x.SiteOf(f.Node); f.Node != "" && site != "" {
			out[site] = struct{}{}
		}
	case f.Signer != "":
		for pod := range x.trusting[f.Signer] {
			if site := x.SiteOf(x.dependencies[pod].Node); site != "" {
				out[site] = struct{}{}
			}
		}
	case k.Resource == "services", k.Resource == "endpointslices":
		add(x.wantedBy[kube.CoreKey("namespaces", "", k.Namespace)])
	}
	for _, s := range f.Subjects {
		x.granted(s, add)
	}
	if neededEverywhere(k) {
		for s := range x.wanted {
			out[s] = struct{}{}
		}
	}
	if len(f.Refs) > 0 {
		add(x.wantedBy[k])
	}
	return out
}

func (x *Index) link(k kube.Key, f Dependencies) {
	switch {
	case k.IsSelected():
		addKey(x.selected.objects, k.GroupResource(), k)
	case k.Resource == "sites":
		x.sites[k.Name] = true
		for _, s := range f.Selects {
			x.selected.sites[k.Name] = append(x.selected.sites[k.Name], newSelector(s))
		}
	case k.Resource == "nodes" && f.Site != "":
		addKey(x.members, f.Site, k)
	case k.BindsToNode() && f.Node != "":
		addKey(x.bound, f.Node, k)
	case k.NamesNode() && f.Node != "":
		addKey(x.naming, f.Node, k)
	case f.Signer != "":
		addKey(x.bundles, f.Signer, k)
	case k.Resource == "services", k.Resource == "endpointslices":
		addKey(x.inNamespace, k.Namespace, k)
	}
	for _, signer := range f.Trusts {
		addKey(x.trusting, signer, k)
	}
	for _, s := range f.Subjects {
		addKey(x.grants, s, k)
	}
	if neededEverywhere(k) {
		x.everywhere[k] = struct{}{}
	}
}

func (x *Index) unlink(k kube.Key) {
	f, known := x.dependencies[k]
	if !known {
		return
	}
	switch {
	case k.IsSelected():
		removeKey(x.selected.objects, k.GroupResource(), k)
	case k.Resource == "sites":
		delete(x.sites, k.Name)
		delete(x.selected.sites, k.Name)
		delete(x.selected.matched, k.Name)
	case k.Resource == "nodes":
		removeKey(x.members, f.Site, k)
	case k.BindsToNode():
		removeKey(x.bound, f.Node, k)
	case k.NamesNode():
		removeKey(x.naming, f.Node, k)
	case f.Signer != "":
		removeKey(x.bundles, f.Signer, k)
	case k.Resource == "services", k.Resource == "endpointslices":
		removeKey(x.inNamespace, k.Namespace, k)
	}
	for _, signer := range f.Trusts {
		removeKey(x.trusting, signer, k)
	}
	for _, s := range f.Subjects {
		removeKey(x.grants, s, k)
	}
	delete(x.everywhere, k)
}

// neededEverywhere reports whether every site needs an object: CSI drivers, the ranges of the
// addresses of services, and the service by which pods reach the API server.
func neededEverywhere(k kube.Key) bool {
	switch k.Resource {
	case "csidrivers", "servicecidrs":
		return true
	case "services", "endpointslices":
		return k.Namespace == "default" && k.Name == "kubernetes"
	}
	return false
}

func addKey[K comparable](m map[K]keySet, name K, k kube.Key) {
	if m[name] == nil {
		m[name] = keySet{}
	}
	m[name][k] = struct{}{}
}

func removeKey[K comparable](m map[K]keySet, name K, k kube.Key) {
	delete(m[name], k)
	if len(m[name]) == 0 {
		delete(m, name)
	}
}
