// Package storekey holds the key that encrypts what a leaf stores. The key itself is random and
// lies in the data folder, sealed with the operator's key, which comes from elsewhere: a file, or
// a credential of systemd, which can seal it to a TPM. So the operator's key is changed without
// writing the store again.
//
// It guarantees that a missing or another operator's key is an error, and that the sealed key is
// never replaced by one that opens less. The leaf calls it before anything else; the key of the
// store goes to nats-server, that of the tokens to the node API.
package storekey
