package wire

import (
	"context"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// newSerial returns the medium of RTU on a serial port.
func newSerial(e Endpoint) medium {
	return medium{
		framing: rtu{}, silence: e.Serial.Silence(), character: e.Serial.Character(),
		dial: func(context.Context) (conn, error) { return openSerial(e.Address, e.Serial) },
	}
}

// openSerial opens a port exclusively and configures the line. The file is non-blocking and
// supports deadlines, so that an unplugged adapter is an error at once.
func openSerial(path string, s Serial) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if err := setLine(fd, s); err != nil {
		_ = unix.Close(fd) // the first error is returned
		return nil, fmt.Errorf("set line of %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

func setLine(fd int, s Serial) error {
	if err := unix.IoctlSetInt(fd, unix.TIOCEXCL, 0); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	t := &unix.Termios{Cflag: unix.CREAD | unix.CLOCAL | unix.BOTHER, Ispeed: uint32(s.Baud), Ospeed: uint32(s.Baud)}
	t.Cc[unix.VMIN] = 1
	t.Cflag |= map[int]uint32{7: unix.CS7, 8: unix.CS8}[s.DataBits]
	if s.StopBits == 2 {
		t.Cflag |= unix.CSTOPB
	}
	switch s.Parity {
	case "even":
		t.Cflag |= unix.PARENB
	case "odd":
		t.Cflag |= unix.PARENB | unix.PARODD
	}
	if err := unix.IoctlSetTermios(fd, unix.TCSETS2, t); err != nil {
		return fmt.Errorf("termios: %w", err)
	}
	if s.RS485 {
		if err := setRS485(fd); err != nil {
			return fmt.Errorf("rs485: %w", err)
		}
	}
	if err := unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIOFLUSH); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

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
