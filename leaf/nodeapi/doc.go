// Package nodeapi serves a small Kubernetes API on loopback TLS, for an unforked
// kubelet, for other clients on the gateway and for kubectl, from what the leaf has
// on disk: SITE_DESIRED, what the cloud wants here, and SITE_REPORTED, what is true
// here. It needs neither the link nor the cloud, also not after a reboot.
//
// Guarantees: an object is never replaced by an older version of itself; a write is
// answered only after SITE_REPORTED has stored it; a pod that the kubelet has
// finished does not come back; a service account token that was once obtained is
// presented again while the cloud is away.
//
// The leaf calls it. It writes nothing to the API server, accepts no change of what
// the cloud decides, and does not serve as a general API server: no admission, no
// conversion, no server-side apply.
package nodeapi
