// Package v1alpha1 is the Kubernetes API of Petiole itself, group petiole.dev: a Site
// is a location behind an unreliable link, and its status is what `kubectl get sites`
// shows; a Backlog is a request, answered once, for the objects that a site has not
// stored.
//
// The bridge writes the status of both. Users and installers create and delete Sites;
// kubectl-petiole creates and deletes Backlogs. The package contains types only.
//
// +k8s:deepcopy-gen=package
// +groupName=petiole.dev
package v1alpha1

//go:generate go run k8s.io/code-generator/cmd/deepcopy-gen@v0.37.2 --output-file zz_generated.deepcopy.go .
