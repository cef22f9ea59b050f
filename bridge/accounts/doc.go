// Package accounts makes and limits the NATS accounts of the sites at a hub in operator mode.
//
// Keys computes an account's claims from a Site and from secrets alone: the same Site always
// has the same account, so that nothing needs to be remembered. What a site may do is in its
// account, signed by the operator's signing key: the subjects of FABRIC that it imports, its
// limits, and for each gateway a signing key with the permissions of that gateway. The user JWT
// of a gateway carries no permission: it becomes invalid, and its live connection is closed,
// when the account no longer has the gateway's signing key. Resolver stores, lists and deletes
// claims at the hub; Controller does so as Sites change. WriteHub creates the keys and the
// configuration of a new hub.
//
// The bridge's leader runs a Controller; the command `bridge hub init` calls WriteHub.
package accounts
