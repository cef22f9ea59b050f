// Package codec converts the registers and bits of a Modbus unit into values, and values
// into registers and bits: addresses, data types, byte and word order, scale, texts. The
// driver calls it for each property.
//
// It is pure: no I/O, no goroutines, no clock. What it encodes decodes to the same value; a
// value that the registers cannot hold is rejected. Registers that hold no value, such as a
// float that is not a number, give a reason instead.
package codec
