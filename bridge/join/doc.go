// Package join decides about gateways that ask to join a site with a token (streams/join).
//
// A token is accepted once: the write that adds the gateway to the Site's gateways also records
// that it has used the token, with the version of the Site that was read as a precondition, so
// that of two gateways one is refused. The same gateway may ask again and gets the same answer,
// because an answer can be lost. What a request costs is bounded: it is read and compared with
// the cached Site before a signature is verified, a site has a rate of its own, and only a
// request with the valid and unused token of its Site reaches the API server.
//
// It makes no accounts: the bridge's accounts controller does, when the Site changes. The
// bridge's leader runs the Handler in its requests.Server.
package join
