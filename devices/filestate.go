package devices

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// FileState is a State of one file for each device below a directory, which it makes
// when it is first needed. Save syncs file and directory. It is safe for concurrent
// use with different keys.
type FileState struct{ Dir string }

// Load reads a key's file.
func (f FileState) Load(_ context.Context, key string) ([]byte, error) {
	b, err := os.ReadFile(f.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// Save replaces a key's file: after a power cut it is the old or the new one, whole.
func (f FileState) Save(_ context.Context, key string, value []byte) error {
	if err := os.MkdirAll(f.Dir, 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	path := f.path(key)
	if err := writeSynced(path+".new", value); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("replace state: %w", err)
	}
	return f.sync()
}

// Delete removes a key's file.
func (f FileState) Delete(_ context.Context, key string) error {
	err := os.Remove(f.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.sync()
}

// path keeps namespace and name apart: names of Kubernetes objects hold no "=".
func (f FileState) path(key string) string {
	return filepath.Join(f.Dir, strings.ReplaceAll(key, "/", "=")+".json")
}

func (f FileState) sync() error {
	d, err := os.Open(f.Dir)
	if err != nil {
		return fmt.Errorf("open state directory: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

func writeSynced(path string, b []byte) error {
	w, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	_, err = w.Write(b)
	if err := errors.Join(err, w.Sync(), w.Close()); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}
