// Package scan finds out what is on a Modbus line: which units reply, how they identify
// themselves, which registers they allow to read, and which SunSpec models they have. It only
// reads. Manifests writes a Device and a DeviceModel of a unit to start from. Package modbus
// calls it for leaf device scan.
package scan
