// Package modbustest provides, for tests and benchmarks, Modbus slaves that do not use the
// driver's code, with registers that prove what was read, and serial lines with the pace of
// their baud rate.
//
// The slave's protocol is github.com/simonvetter/modbus's, checksums of serial lines
// are github.com/goburrow/modbus's. No production binary imports it.
package modbustest
