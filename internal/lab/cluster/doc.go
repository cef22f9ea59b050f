// Package cluster holds what the lab needs around its control plane: the certificates
// and kubeconfigs of everyone who talks to the API server, readiness, and the
// manifests that are applied to it.
//
// `lab controlplane` and `lab up` call it. It is light: it does not link the control
// plane itself.
package cluster
