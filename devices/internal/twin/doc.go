// Package twin keeps what is known of one device: the twins of its points, its health, and the
// status that follows from them. It does no I/O, starts nothing and reads no clock; a Device
// belongs to one goroutine. The worker of a device in package host calls it.
//
// A reported value is the last good one, with its quality, its reason and the time it was
// read. The times of a property's samples do not decrease within an epoch.
package twin
