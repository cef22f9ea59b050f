// Package v1alpha1 is the Kubernetes API of Petiole itself, group petiole.dev: a Site
// is a place behind a link that cannot be trusted, and its status is what
// `kubectl get sites` shows.
//
// The bridge writes the status; people and installers create and delete Sites. The
// package holds types only and talks to no server.
package v1alpha1
