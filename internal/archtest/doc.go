// Package archtest enforces who may import whom (docs/architecture.md): the test reads
// the module's packages with `go list` and builds nothing.
package archtest
