// Package fabric writes what the lab's NATS servers and their clients read: nkeys,
// the hub's and the leaves' stock nats-server configuration, and contexts for the nats
// command.
//
// The lab calls it before it starts a server. It starts nothing itself, and keeps
// every key that exists.
package fabric
