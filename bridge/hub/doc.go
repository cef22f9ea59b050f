// Package hub connects the bridge to the NATS hub: it opens the stream DESIRED
// and the bridge's own bucket, reads them, and detects that they were replaced.
//
// A connection retries until it is closed; without the hub, publishing fails at once and the
// caller retries. All rooms of the bridge that read or write streams use it. It knows nothing
// of the API server.
package hub
