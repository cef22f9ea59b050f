// Package identity keeps on disk what the node API and its clients trust: the certificate that
// the API serves, the bearer token of the node, and the service account tokens that pods have
// obtained from the cloud.
//
// Guarantees: the credentials are created once, and do not change with a restart; only the
// user of the leaf can read the files; the service account tokens are encrypted, and survive a
// power cut after Put has returned.
//
// The node API calls it. It verifies no request and gets no token from the cloud.
package identity
