package desired

import (
	"sync"

	"github.com/petiole-io/petiole/bridge/closure"
	"github.com/petiole-io/petiole/bridge/kube"
)

// state is what each site needs, and what DESIRED holds for it. Both change under one lock.
type state struct {
	mu      sync.Mutex
	closure *closure.Index
	desired *cache
}

// NodesBySite returns the nodes of each existing Site.
func (s *state) NodesBySite() map[string][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string][]string{}
	for site := range s.closure.Sites() {
		out[site] = s.closure.Nodes(site)
	}
	return out
}

// NodesOf returns the nodes of a site.
func (s *state) NodesOf(site string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closure.Nodes(site)
}

// SiteExists reports whether a Site with that name exists.
func (s *state) SiteExists(site string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closure.Exists(site)
}

// Matched returns how many objects each of a Site's spec.resources matched when the site was last
// published, and how many of them, in order, a site can have.
func (s *state) Matched(site string) (counts []int, limit int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closure.Matched(site)
}

// SiteOf returns the site of a node, empty if the node is unknown or belongs to no site.
func (s *state) SiteOf(node string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closure.SiteOf(node)
}

// PodsOn returns the pods bound to a node.
func (s *state) PodsOn(node string) []kube.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	var pods []kube.Key
	for k := range s.closure.Bound(node) {
		if k.Resource == "pods" {
			pods = append(pods, k)
		}
	}
	return pods
}

// BoundTo returns the pods and devices of the nodes.
func (s *state) BoundTo(nodes []string) []kube.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []kube.Key
	for _, n := range nodes {
		for k := range s.closure.Bound(n) {
			keys = append(keys, k)
		}
	}
	return keys
}
