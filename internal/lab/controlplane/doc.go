// Package controlplane runs a real Kubernetes control plane in this process: etcd,
// kube-apiserver, kube-scheduler and kube-controller-manager, each with the defaults
// of its own command and the flags that the lab needs.
//
// The components share one process because their Run functions, unlike their cobra
// commands, install no signal handlers and read no global flags; feature gates stay at
// their defaults for all of them. It listens on loopback only. `lab controlplane` and
// the tests against a real API server call it; a process can run it once.
package controlplane
