// Package v1beta1 is KubeEdge's Device Mapper Interface (DMI) v1beta1: the gRPC
// services by which an edge agent and the mappers of device protocols talk over Unix
// sockets.
//
// It is compatible with KubeEdge to the byte: field numbers, types, service and method
// names are the same, so an unmodified mapper works. Only the messages' full names,
// which are never on the wire, differ. The code is made from messages.proto and
// services.proto; devices/dmi serves the one service and calls the other, and mappers
// written in Go may use the package for their side.
package v1beta1

// protoc itself is Debian's (protobuf-compiler, libprotobuf-dev); the plugins have
// pinned versions.
//go:generate go run ../protogen -root ../../.. devices/dmi/v1beta1/messages.proto devices/dmi/v1beta1/services.proto
