// Package helm tests the chart in the folder petiole with Helm's own libraries. It is a module of
// its own, so that the main module does not have Helm's dependencies; `go tool helm` in this folder
// is the command.
package helm
