// Package codec encodes the objects of a site's node API for its clients and decodes what
// they send: JSON, protobuf, kubectl's tables, lists, watch events, patches and errors.
//
// An object in protobuf is encoded once for all clients. Lists in JSON are written without
// being assembled in memory. Only the types in its scheme are served in protobuf and accept
// strategic merge patches.
//
// The node API calls it. It stores nothing and decides nothing about a request.
package codec
