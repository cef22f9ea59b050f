// Package streams defines the wire contract between the cloud and the sites: the subjects,
// the message headers, and the configuration of the JetStream streams and consumers.
//
// Guarantees: every Kubernetes object name maps to exactly one subject and back
// (EscapeToken); a message contains an object in JSON as Kubernetes serves it, so that
// `nats stream view DESIRED` is readable; Put returns only after JetStream has stored the
// message.
//
// The bridge, the leaf and the tests use it. It does not talk to an API server, does not
// decide what a site needs, and imports no other package of this module.
package streams
