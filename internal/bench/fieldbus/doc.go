// Package fieldbus measures the Modbus driver beside Telegraf's modbus input: the same
// slaves, the same values, one run, each collector in a process of its own.
//
// The slaves are not Petiole's code, and their values are proofs: a float carries its
// address, an integer carries unit and address, and all change ten times a second, so
// that a stale, shifted or foreign value is counted as wrong and not taken for good.
//
// cmd/bench calls it. It needs no lab.
package fieldbus
