// Package filestore checks JetStream's folder before nats-server opens it, and removes
// what nats-server 2.15.2 would believe to its cost: a damaged length, count or sequence
// that makes it take gigabytes of memory, or minutes, at every start. The formats are
// those of server/filestore.go of that version; docs/upstream.md has the reports.
//
// It guarantees that what it leaves can be opened within memory that depends on what is
// stored, not on what the damaged bytes say. It removes only what nats-server makes again
// from the messages: it never removes a message. The leaf calls it while no server runs.
package filestore
