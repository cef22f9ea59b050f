package join

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// ErrBusy reports that another command changes the machine.
var ErrBusy = errors.New("another leaf join, leaf reset or leaf restore runs on this machine")

// lock excludes other commands that change the machine, until release is called or the process ends,
// however it does. It leaves no file.
func (m Machine) lock() (release func(), err error) {
	if err := os.MkdirAll(m.ConfigDir, 0o700); err != nil {
		if m.UID != 0 && errors.Is(err, fs.ErrPermission) {
			return func() {}, nil // the checks report it, and nothing can be changed
		}
		return nil, fmt.Errorf("create the folder of the configuration: %w", err)
	}
	dir, err := os.Open(m.ConfigDir)
	if err != nil {
		if m.UID != 0 && errors.Is(err, fs.ErrPermission) {
			return func() {}, nil
		}
		return nil, fmt.Errorf("lock the configuration: %w", err)
	}
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = dir.Close() // it was only read
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w (%s is locked): wait until it has ended, and run the command again", ErrBusy, m.ConfigDir)
		}
		return nil, fmt.Errorf("lock %s: %w", m.ConfigDir, err)
	}
	return func() { _ = dir.Close() }, nil
}
