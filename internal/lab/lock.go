package lab

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lockFile is the machine's: the names of namespaces and devices are, too.
const lockFile = "/run/petiole-lab.lock"

// Lock keeps other commands of any lab on this machine away until release is called or
// the process ends. Starting and stopping the lab needs it exclusively; what acts on one
// site shares it. It blocks, and says so.
func (l *Lab) Lock(exclusive bool) (release func() error, err error) {
	f, err := os.OpenFile(lockFile, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the lab: %w", err)
	}
	how := unix.LOCK_SH
	if exclusive {
		how = unix.LOCK_EX
	}
	err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		l.out.say("waiting for another lab command to end")
		err = unix.Flock(int(f.Fd()), how)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock the lab with %s: %w", lockFile, err), f.Close())
	}
	return f.Close, nil
}
