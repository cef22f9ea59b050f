// Package streams is the wire contract between the cloud and the sites: the
// subjects, the message headers, and the catalog of JetStream streams and
// consumers, as values.
//
// Guarantees: every Kubernetes object name maps to exactly one subject and back
// (EscapeToken); a message is an object as Kubernetes serves it, in JSON, so that
// `nats stream view DESIRED` is readable; Put returns only after JetStream has
// stored the message.
//
// The bridge, the leaf and the tests call it. It talks to no API server, decides
// nothing about what a site needs, and imports no other package of this module.
package streams
