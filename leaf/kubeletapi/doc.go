// Package kubeletapi connects the bridge to the API of this node's kubelet: kubectl logs, exec and
// port-forward arrive in tunnels (package streams/tunnel) and leave to its port on loopback.
//
// Guarantees: the kubelet and the leaf authenticate each other with certificates that the leaf has
// created, so that no other process of the gateway can take the place of either; nothing but the
// kubelet's port is reached. What the kubelet lets its client do is its own authorization, which
// asks the node API.
//
// The leaf calls it. It knows no request: it copies bytes.
package kubeletapi
