package modbus

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// serialRS485 is struct serial_rs485 of linux/serial.h.
type serialRS485 struct {
	flags                   uint32
	delayBefore, delayAfter uint32
	_                       [5]uint32
}

const (
	rs485Enabled   = 1 << 0
	rs485RTSOnSend = 1 << 1
)

// setRS485 makes the kernel switch the direction of a two-wire line.
func setRS485(fd int) error {
	c := serialRS485{flags: rs485Enabled | rs485RTSOnSend}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCSRS485, uintptr(unsafe.Pointer(&c)))
	if errno != 0 {
		return errno
	}
	return nil
}
