// Package prometheus has a real Prometheus scrape what a bridge and a leaf answered, and evaluate
// every rule of deploy/kubernetes/alerts.yaml and every query of the dashboards in deploy/grafana:
// `go tool task metrics`. It is a module of its own, so that the main module does not have
// Prometheus's dependencies.
package prometheus
