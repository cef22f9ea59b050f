// Package nodeapi serves a small Kubernetes API on loopback TLS to an unmodified kubelet, to
// other clients on the gateway and to kubectl, from what the leaf has on disk: the desired
// state in SITE_DESIRED and the local state in SITE_REPORTED. It needs neither the link nor
// the cloud, even after a reboot.
//
// Guarantees: an object is never replaced by an older version of itself; a write is
// answered only after SITE_REPORTED has stored it; a pod that the kubelet has finished does
// not come back; a service account token that was once obtained is served again while the
// cloud is unreachable.
//
// The leaf runs it. It writes nothing to the API server, accepts no change of what the
// cloud decides, and is not a general API server: it has no admission, no conversion and no
// server-side apply.
package nodeapi
