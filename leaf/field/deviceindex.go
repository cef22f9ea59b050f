package field

import "sync"

// deviceIndex maps each device of the site to the node that operates it. It is safe for
// concurrent use.
type deviceIndex struct {
	mu    sync.Mutex
	nodes map[string]string // namespace/name to node
}

func newDeviceIndex() *deviceIndex { return &deviceIndex{nodes: map[string]string{}} }

func (i *deviceIndex) put(namespace, name, node string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.nodes[namespace+"/"+name] = node
}

func (i *deviceIndex) remove(namespace, name string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.nodes, namespace+"/"+name)
}

// nodeOf returns the node that operates a device. ok is false if the site has no such device.
func (i *deviceIndex) nodeOf(namespace, name string) (node string, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	node, ok = i.nodes[namespace+"/"+name]
	return node, ok
}

// operatedElsewhere returns a function that reports whether a node other than the given one
// operates a device.
func (i *deviceIndex) operatedElsewhere(node string) func(namespace, name string) bool {
	return func(namespace, name string) bool {
		operator, ok := i.nodeOf(namespace, name)
		return ok && operator != node
	}
}
