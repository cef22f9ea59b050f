// Package access decides which pods the node API answers, and what they may read: a pod
// presents the token of its service account, which is recognized without the cloud because it was
// requested here, and the roles that the cloud has sent decide.
//
// Guarantees: a token is accepted only if this node requested it for a pod that is still here, for
// the API server, and it has not expired; what no role grants is refused. It decides as RBAC does
// in the cloud, from the roles and bindings that the site has: a role that is withdrawn in the
// cloud is effective here until the site has received that.
//
// It also has the certificates of the listener for pods, and the address on which it listens.
//
// The node API calls it. Only Listen does I/O.
package access
