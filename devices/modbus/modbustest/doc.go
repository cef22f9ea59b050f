// Package modbustest is for tests and benchmarks: Modbus slaves that are not the
// driver's own code, with registers that prove what was read, and serial lines that
// are as slow as their baud rate.
//
// The slave's protocol is github.com/simonvetter/modbus's, checksums of serial lines
// are github.com/goburrow/modbus's. Nothing of a production binary imports it.
package modbustest
