// Package durable replaces files so that they survive a crash and a power cut.
//
// A reader finds the previous content or the new content in full, never a part of either, and
// once WriteFile has returned nil it finds the new one. The package writes through the hidden
// file .NAME.next in the same folder, which a crash may leave behind and the next write reuses,
// so writes of one path must not run concurrently. It does not guard against a disk that
// reports a write as done before it is.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

const folderMode = 0o700

// fsync is replaced by tests.
var fsync = (*os.File).Sync

// WriteFile replaces the file at path with data and returns when the new content and its
// name are on disk. The file has the permissions perm whatever the umask. Missing folders
// are created for their owner alone. After an error the file may already have the new
// content, but not durably.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	dir := filepath.Dir(path)
	if err := createFolder(dir); err != nil {
		return err
	}
	if err := replace(path, data, perm, fsync); err != nil {
		return err
	}
	return syncFolder(dir)
}

// WriteFileNoSync is WriteFile without waiting for the disk. A crash of the process leaves
// the previous content or the new one; after a power cut the file may be empty, so it
// suits content that can be derived again.
func WriteFileNoSync(path string, data []byte, perm fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), folderMode); err != nil {
		return err
	}
	return replace(path, data, perm, func(*os.File) error { return nil })
}

// replace writes data to a new file, which it syncs and renames to path.
func replace(path string, data []byte, perm fs.FileMode, sync func(*os.File) error) error {
	next := temporary(path)
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	if err = f.Chmod(perm); err == nil {
		_, err = f.Write(data)
	}
	if err == nil {
		err = sync(f)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(next))
	}
	return nil
}

// temporary returns the file through which path is written. It is hidden from programs that
// read every file of a folder.
func temporary(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".next")
}

// createFolder creates dir and its missing parents and syncs the folders that hold them.
func createFolder(dir string) error {
	err := os.Mkdir(dir, folderMode)
	if errors.Is(err, fs.ErrNotExist) {
		if err := createFolder(filepath.Dir(dir)); err != nil {
			return err
		}
		err = os.Mkdir(dir, folderMode)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncFolder(filepath.Dir(dir))
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(fsync(d), d.Close())
}
