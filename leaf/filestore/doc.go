// Package filestore checks JetStream's folder before nats-server opens it, and removes
// what nats-server 2.15.2 would believe to its cost: a damaged length, count or sequence
// that makes it take gigabytes of memory, or minutes, at every start. The formats are
// those of server/filestore.go of that version; docs/upstream.md has the reports.
//
// It guarantees that what it leaves can be opened within memory that depends on what is
// stored, not on what the damaged bytes say; docs/decisions/0016-store-check.md says what is
// not found. It removes what nats-server makes again from the messages, and of messages only
// those that are damaged for certain. It repairs the descriptions of streams, without which
// nats-server loses all of their messages. The leaf calls it while no server runs.
package filestore
