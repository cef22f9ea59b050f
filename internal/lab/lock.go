package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockFile is the machine's: the names of namespaces and devices are, too.
const lockFile = "/run/petiole-lab.lock"

// Lock keeps other commands of any lab on this machine away until release is called or
// the process ends. Starting and stopping the lab needs it exclusively; commands that act on one
// site share it. It blocks until ctx ends, and prints which command it waits for.
func (l *Lab) Lock(ctx context.Context, exclusive bool) (release func() error, err error) {
	f, err := os.OpenFile(l.lock, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the lab: %w", err)
	}
	how := unix.LOCK_SH | unix.LOCK_NB
	if exclusive {
		how = unix.LOCK_EX | unix.LOCK_NB
	}
	for announced := false; ; announced = true {
		err := unix.Flock(int(f.Fd()), how)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock the lab with %s: %w", l.lock, err), f.Close())
		}
		if !announced {
			l.out.say("waiting for another lab command to end: %s", holder(f))
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for another lab command: %w", ctx.Err()), f.Close())
		case <-time.After(100 * time.Millisecond):
		}
	}
	if err := writeHolder(f); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the lab: %w", err), f.Close())
	}
	return f.Close, nil
}

// busy returns the command that holds the lock exclusively, if one does.
func (l *Lab) busy() (command string, held bool) {
	f, err := os.OpenFile(l.lock, os.O_RDWR, 0)
	if err != nil {
		return "", false
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		return "", false
	}
	return holder(f), true
}

// writeHolder writes into the lock's file which command holds it.
func writeHolder(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	text := fmt.Sprintf("%s (process %d)", strings.Join(append([]string{filepath.Base(os.Args[0])}, os.Args[1:]...), " "), os.Getpid())
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

func holder(f *os.File) string {
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 1000))
	if err != nil || len(text) == 0 {
		return "unknown"
	}
	return string(text)
}
