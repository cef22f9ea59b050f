// Package metricstest compares the metrics that a program registers with the tables of
// docs/operations.md. The tests of bridge and leaf call it. Nothing outside tests may import it.
package metricstest
