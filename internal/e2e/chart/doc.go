// Package chart tests the Helm chart on the lab, which must be up: the bridge of the chart runs in a
// pod and takes the lab's sites over. `go tool task test:helm` does all of it.
package chart
