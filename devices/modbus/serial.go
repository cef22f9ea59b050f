package modbus

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// newSerial returns the wire of RTU on a serial port.
func newSerial(e endpoint) *wire {
	return &wire{
		framing: rtu{}, silence: e.serial.silence(), character: e.serial.character(),
		dial: func(context.Context) (conn, error) { return openSerial(e.address, e.serial) },
	}
}

// openSerial opens a port exclusively and configures the line. The file is non-blocking and
// supports deadlines, so that an unplugged adapter is an error at once.
func openSerial(path string, s serialSettings) (*os.File, error) {
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

func setLine(fd int, s serialSettings) error {
	if err := unix.IoctlSetInt(fd, unix.TIOCEXCL, 0); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	t := &unix.Termios{Cflag: unix.CREAD | unix.CLOCAL | unix.BOTHER, Ispeed: uint32(s.baud), Ospeed: uint32(s.baud)}
	t.Cc[unix.VMIN] = 1
	t.Cflag |= map[int]uint32{7: unix.CS7, 8: unix.CS8}[s.dataBits]
	if s.stopBits == 2 {
		t.Cflag |= unix.CSTOPB
	}
	switch s.parity {
	case "even":
		t.Cflag |= unix.PARENB
	case "odd":
		t.Cflag |= unix.PARENB | unix.PARODD
	}
	if err := unix.IoctlSetTermios(fd, unix.TCSETS2, t); err != nil {
		return fmt.Errorf("termios: %w", err)
	}
	if s.rs485 {
		if err := setRS485(fd); err != nil {
			return fmt.Errorf("rs485: %w", err)
		}
	}
	if err := unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIOFLUSH); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}
