// Package csidriver is a CSI driver for tests, with the part of a storage system that attaches: its
// volumes are folders of this machine, and a node has to have a volume attached before it stages it.
//
// What it publishes are real bind mounts. Which volumes there are and where they are attached is on disk,
// so that a driver that starts again, as after a reboot, knows both. internal/e2e serves it to a kubelet at
// a site.
package csidriver
