package modbustest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo terminal: a serial port at path, whose other side is far. It keeps
// the port open, since far would read errors while no user has it open. The port is raw, so
// that nothing is echoed before its user configures it.
type terminal struct {
	path string
	far  *os.File
	hold int
}

func openTerminal() (terminal, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return terminal{}, fmt.Errorf("open /dev/ptmx: %w", err)
	}
	t := terminal{hold: -1}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	t.path = fmt.Sprintf("/dev/pts/%d", n)
	if err == nil {
		t.hold, err = unix.Open(t.path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	}
	if err == nil {
		err = unix.IoctlSetTermios(t.hold, unix.TCSETS, &unix.Termios{Cflag: unix.CREAD | unix.CLOCAL | unix.CS8 | unix.B9600})
	}
	if err != nil {
		_ = unix.Close(fd) // the first error counts
		return terminal{}, err
	}
	t.far = os.NewFile(uintptr(fd), "ptmx")
	return t, nil
}

func (t terminal) close() error { return errors.Join(t.far.Close(), unix.Close(t.hold)) }

// Pair is two serial ports that are connected with each other, at full speed, for slaves
// that need a port of their own.
type Pair struct {
	// A and B are the paths of the ports.
	A, B  string
	ends  [2]terminal
	pumps sync.WaitGroup
}

// NewPair connects two new ports. The caller must close the pair.
func NewPair() (*Pair, error) {
	a, err := openTerminal()
	if err != nil {
		return nil, fmt.Errorf("make pair of ports: %w", err)
	}
	b, err := openTerminal()
	if err != nil {
		_ = a.close() // the first error counts
		return nil, fmt.Errorf("make pair of ports: %w", err)
	}
	p := &Pair{A: a.path, B: b.path, ends: [2]terminal{a, b}}
	for _, way := range [][2]*os.File{{a.far, b.far}, {b.far, a.far}} {
		p.pumps.Go(func() { _, _ = io.Copy(way[1], way[0]) }) // ends when a side is closed
	}
	return p, nil
}

// Close closes both ports.
func (p *Pair) Close() error {
	err := errors.Join(p.ends[0].close(), p.ends[1].close())
	p.pumps.Wait()
	return err
}
