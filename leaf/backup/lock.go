package backup

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ErrInUse reports that a leaf, or a backup, uses the data folder.
var ErrInUse = errors.New("another leaf or leaf backup uses the data folder")

// Lock excludes all others from a data folder, which it creates, until release is called or the
// process ends, however it does.
func Lock(dataDir string) (release func(), err error) {
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return nil, fmt.Errorf("create the data folder: %w", err)
	}
	dir, err := os.Open(dataDir)
	if err != nil {
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = dir.Close() // it was only read
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w %s: stop it first", ErrInUse, dataDir)
		}
		return nil, fmt.Errorf("lock %s: %w", dataDir, err)
	}
	return func() { _ = dir.Close() }, nil
}
