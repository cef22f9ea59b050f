// Package wire sends Modbus requests to the units behind one endpoint and finds their replies:
// over TCP, TLS, UDP, RTU on a serial line, and RTU over TCP. A link of the driver owns one
// Transport.
//
// A reply is returned only if it matches its request exactly: unit, function, length, and
// transaction number or checksum. On a line without transaction numbers no reply is
// returned that could be a late one to an earlier request. Every transaction has an
// absolute deadline. The package does not retry: the driver decides what follows an error.
//
// It calls goburrow/modbus to encode requests and to decode replies, but does not use that
// library's transports: they neither compare function and length of a reply with its request
// nor discard a late one, so that the next requests fail, too.
package wire
