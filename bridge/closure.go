package bridge

import (
	"maps"
	"slices"

	"github.com/petiole-io/petiole/bridge/kube"
)

type keySet map[kube.Key]struct{}

// closure computes which objects each site needs: its nodes; the pods and devices bound to
// them; everything that those refer to, transitively; the services and endpoint slices of the
// pods' namespaces; and what every node reads (CSI drivers, the service of the API server).
//
// It is a pure index: it reads no API and has no lock; its owner serializes the calls. set and
// remove return the sites that a change affects; recompute takes time in proportion to the
// size of one site.
type closure struct {
	sites        map[string]bool
	dependencies map[kube.Key]dependencies

	members     map[string]keySet // site → its nodes
	bound       map[string]keySet // node → its pods and devices
	inNamespace map[string]keySet // namespace → its services and endpoint slices
	everywhere  keySet

	// wanted maps each site to the objects that it needed at the last recompute, each with the
	// node token of its subject. It includes objects that do not exist (yet).
	wanted   map[string]map[kube.Key]string
	wantedBy map[kube.Key]map[string]struct{}
}

func newClosure() *closure {
	return &closure{
		sites: map[string]bool{}, dependencies: map[kube.Key]dependencies{},
		members: map[string]keySet{}, bound: map[string]keySet{}, inNamespace: map[string]keySet{}, everywhere: keySet{},
		wanted: map[string]map[kube.Key]string{}, wantedBy: map[kube.Key]map[string]struct{}{},
	}
}

// set adds or updates an object and returns the sites whose closure may have changed: none if
// only the object's content changed.
func (c *closure) Set(k kube.Key, f dependencies) []string {
	old, known := c.dependencies[k]
	if known && old.equal(f) {
		return nil
	}
	affected := c.affectedSites(k)
	c.unlink(k)
	c.dependencies[k] = f
	c.link(k, f)
	maps.Copy(affected, c.affectedSites(k))
	return slices.Sorted(maps.Keys(affected))
}

// remove removes a deleted object and returns the sites whose closure may have changed.
func (c *closure) Remove(k kube.Key) []string {
	if _, known := c.dependencies[k]; !known {
		return nil
	}
	affected := c.affectedSites(k)
	c.unlink(k)
	delete(c.dependencies, k)
	return slices.Sorted(maps.Keys(affected))
}

// sitesWanting returns the sites that needed the object at the last recompute.
func (c *closure) Wanting(k kube.Key) []string {
	return slices.Sorted(maps.Keys(c.wantedBy[k]))
}

// node returns the node token of an object's subject at a site, and whether the site needs the
// object.
func (c *closure) Node(site string, k kube.Key) (string, bool) {
	n, ok := c.wanted[site][k]
	return n, ok
}

// siteOf returns the site of a node, empty if the node is unknown or belongs to no site.
func (c *closure) SiteOf(node string) string {
	return c.dependencies[kube.CoreKey("nodes", "", node)].Site
}

// nodes returns the names of a site's nodes.
func (c *closure) Nodes(site string) []string {
	var names []string
	for k := range c.members[site] {
		names = append(names, k.Name)
	}
	slices.Sort(names)
	return names
}

// recompute walks from a site's nodes to everything that it needs. It returns the objects that
// are new or moved to another node since the last call, and those that are no longer needed.
func (c *closure) Recompute(site string) (changed, dropped []kube.Key) {
	now := map[kube.Key]string{}
	if c.sites[site] {
		for n := range c.members[site] {
			c.visit(now, n, n.Name)
			for b := range c.bound[n.Name] {
				c.visit(now, b, n.Name)
			}
		}
		if len(now) > 0 {
			for k := range c.everywhere {
				c.visit(now, k, "")
			}
		}
	}
	before := c.wanted[site]
	for k, node := range now {
		if was, ok := before[k]; !ok || was != node {
			changed = append(changed, k)
		}
		if c.wantedBy[k] == nil {
			c.wantedBy[k] = map[string]struct{}{}
		}
		c.wantedBy[k][site] = struct{}{}
	}
	for k := range before {
		if _, ok := now[k]; ok {
			continue
		}
		dropped = append(dropped, k)
		delete(c.wantedBy[k], site)
		if len(c.wantedBy[k]) == 0 {
			delete(c.wantedBy, k)
		}
	}
	if len(now) == 0 {
		delete(c.wanted, site)
	} else {
		c.wanted[site] = now
	}
	return changed, dropped
}

func (c *closure) visit(now map[kube.Key]string, k kube.Key, node string) {
	if _, ok := now[k]; ok {
		return
	}
	now[k] = node
	for _, r := range c.dependencies[k].Refs {
		c.visit(now, r, "")
	}
	if k.Group == "" && k.Resource == "namespaces" {
		for s := range c.inNamespace[k.Name] {
			c.visit(now, s, "")
		}
	}
}

// affectedSites returns the sites whose closure depends on the object as it is linked now.
func (c *closure) affectedSites(k kube.Key) map[string]struct{} {
	out := map[string]struct{}{}
	add := func(sites map[string]struct{}) { maps.Copy(out, sites) }
	f := c.dependencies[k]
	switch {
	case k.Resource == "sites", k.Resource == "nodes":
		if f.Site != "" {
			out[f.Site] = struct{}{}
		}
	case k.BindsToNode():
		if site := c.SiteOf(f.Node); f.Node != "" && site != "" {
			out[site] = struct{}{}
		}
	case k.Resource == "services", k.Resource == "endpointslices":
		add(c.wantedBy[kube.CoreKey("namespaces", "", k.Namespace)])
	}
	if neededEverywhere(k) {
		for s := range c.wanted {
			out[s] = struct{}{}
		}
	}
	if len(f.Refs) > 0 {
		add(c.wantedBy[k])
	}
	return out
}

func (c *closure) link(k kube.Key, f dependencies) {
	switch {
	case k.Resource == "sites":
		c.sites[k.Name] = true
	case k.Resource == "nodes" && f.Site != "":
		addKey(c.members, f.Site, k)
	case k.BindsToNode() && f.Node != "":
		addKey(c.bound, f.Node, k)
	case k.Resource == "services", k.Resource == "endpointslices":
		addKey(c.inNamespace, k.Namespace, k)
	}
	if neededEverywhere(k) {
		c.everywhere[k] = struct{}{}
	}
}

func (c *closure) unlink(k kube.Key) {
	f, known := c.dependencies[k]
	if !known {
		return
	}
	switch {
	case k.Resource == "sites":
		delete(c.sites, k.Name)
	case k.Resource == "nodes":
		removeKey(c.members, f.Site, k)
	case k.BindsToNode():
		removeKey(c.bound, f.Node, k)
	case k.Resource == "services", k.Resource == "endpointslices":
		removeKey(c.inNamespace, k.Namespace, k)
	}
	delete(c.everywhere, k)
}

// neededEverywhere reports whether every site needs an object: CSI drivers, and the service by
// which pods reach the API server.
func neededEverywhere(k kube.Key) bool {
	switch k.Resource {
	case "csidrivers":
		return true
	case "services", "endpointslices":
		return k.Namespace == "default" && k.Name == "kubernetes"
	}
	return false
}

func addKey(m map[string]keySet, name string, k kube.Key) {
	if m[name] == nil {
		m[name] = keySet{}
	}
	m[name][k] = struct{}{}
}

func removeKey(m map[string]keySet, name string, k kube.Key) {
	delete(m[name], k)
	if len(m[name]) == 0 {
		delete(m, name)
	}
}
