// Package node runs the kubelet of this host as a child process.
//
// The child is a program of its own (cmd/petiole-kubelet), so that the leaf's process has no pages
// of the kubelet's. It is restarted whenever it exits, and dies with its parent; containers
// belong to the container runtime and survive both. What a KubeletConfiguration asks for and a
// site does not have is overridden by flags. A kubelet that cannot start, keeps exiting or does
// not renew its node's lease is a problem that the leaf reports. The package knows the kubelet's
// configuration and flags but no Kubernetes objects.
package node
