// Package selection decides which custom resources the bridge watches: those that Sites select. It
// tells a Site, too, what it cannot select and why.
//
// Guarantees: only a resource with a CustomResourceDefinition is watched, so that no selection
// reaches what Kubernetes itself serves, Secrets for instance; and none that sites get otherwise.
// Each resource is watched once for all Sites.
//
// The bridge calls it. It reads the bridge's cache alone; which objects a site gets is for package
// closure.
package selection
