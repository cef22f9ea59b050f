// Package kubeletapi serves the API of a kubelet for all nodes at sites: kubectl logs, exec,
// attach, cp and port-forward, node proxies and the scrapes of a metrics-server arrive here, and
// leave in a tunnel (package streams/tunnel) to the kubelet of the node.
//
// Nodes are told apart by what the request names, because all of them have one address and one
// port: the pod of a pod's path, the path that the API server's node proxy repeats in a header, or
// a prefix /nodes/<node> (see Target). Guarantees: a request is authenticated as a kubelet does it,
// by a client certificate or a token, and authorized for the node that it reaches, with the
// subresources of upstream's kubelet; a request reaches no node but that of its Site. Errors of the
// way are the answer to the request, in the words of who can mend them.
//
// Every bridge serves, whether it leads or not: it keeps no state but connections.
package kubeletapi
