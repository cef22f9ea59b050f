package natsd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	// AsideName is the folder beside JetStream's that holds the last copy of each damaged
	// stream.
	AsideName = "aside"
	// The folders of a stream's messages and of its consumers.
	messagesDir  = "msgs"
	consumersDir = "obs"
)

// StreamDir identifies the folder of a stream in JetStream's store.
type StreamDir struct{ Account, Stream string }

func (d StreamDir) in(store string) string {
	return filepath.Join(store, d.Account, "streams", d.Stream)
}

// aside returns the folder for the copy of a damaged stream.
func (d StreamDir) aside(store string) string {
	return filepath.Join(filepath.Dir(store), AsideName, d.Account, d.Stream)
}

// SetAside moves the folders of damaged streams out of JetStream's folder store and replaces earlier
// copies. The server must not run, or not have the streams open.
func SetAside(store string, dirs []StreamDir) error {
	var errs []error
	for _, d := range dirs {
		to := d.aside(store)
		err := os.RemoveAll(to)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(to), 0o700)
		}
		if err == nil {
			err = os.Rename(d.in(store), to)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("set aside %s: %w", d.Stream, err))
		}
	}
	return errors.Join(errs...)
}

// RestoreMessages moves the messages and consumers of streams that were set aside into the
// streams that were created in their place, and puts a stream back as it was where none was. The
// server must not run.
func RestoreMessages(store string, dirs []StreamDir) error {
	var errs []error
	for _, d := range dirs {
		parts := []string{messagesDir, consumersDir}
		if _, err := os.Stat(d.in(store)); errors.Is(err, fs.ErrNotExist) {
			parts = []string{""} // all of it
		}
		for _, part := range parts {
			from, to := filepath.Join(d.aside(store), part), filepath.Join(d.in(store), part)
			if _, err := os.Stat(from); err != nil {
				continue // there is nothing to keep
			}
			err := os.RemoveAll(to)
			if err == nil {
				err = os.Rename(from, to)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("keep the messages of %s: %w", d.Stream, err))
			}
		}
	}
	return errors.Join(errs...)
}
