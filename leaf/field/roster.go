package field

import "sync"

// roster knows all devices of the site, with the node that operates each. It is safe for
// concurrent use.
type roster struct {
	mu    sync.Mutex
	nodes map[string]string // namespace/name to node
}

func newRoster() *roster { return &roster{nodes: map[string]string{}} }

func (r *roster) put(namespace, name, node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodes[namespace+"/"+name] = node
}

func (r *roster) remove(namespace, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.nodes, namespace+"/"+name)
}

// nodeOf is the node that operates a device, and whether the site has the device.
func (r *roster) nodeOf(namespace, name string) (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	node, ok := r.nodes[namespace+"/"+name]
	return node, ok
}

// elsewhere tells of a device whether another node than the given one operates it.
func (r *roster) elsewhere(node string) func(namespace, name string) bool {
	return func(namespace, name string) bool {
		at, ok := r.nodeOf(namespace, name)
		return ok && at != node
	}
}
