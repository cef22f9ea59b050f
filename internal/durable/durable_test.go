package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

func TestWriteFileReplacesContentAndMode(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	for name, write := range map[string]func(string, []byte, fs.FileMode) error{"WriteFile": WriteFile, "WriteFileNoSync": WriteFileNoSync} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a", "b", "file")
			for _, step := range []struct {
				data string
				mode fs.FileMode
			}{{"a long first content", 0o600}, {"second", 0o644}, {"", 0o600}} {
				if err := write(path, []byte(step.data), step.mode); err != nil {
					t.Fatal(err)
				}
				expect(t, path, step.data)
				if i, err := os.Stat(path); err != nil || i.Mode() != step.mode {
					t.Errorf("mode %v, want %v (%v)", i.Mode(), step.mode, err)
				}
			}
			if i, err := os.Stat(filepath.Dir(path)); err != nil || i.Mode().Perm() != folderMode {
				t.Errorf("mode of the folder %v, want %v (%v)", i.Mode(), folderMode, err)
			}
		})
	}
}

// The content is synced before it gets its name, and the folder that holds the name after.
func TestWriteFileSyncsBeforeAndAfterTheRename(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "new")
	path := filepath.Join(dir, "file")
	var synced, content []string
	watchSyncs(t, func(f *os.File) error {
		data, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		synced, content = append(synced, f.Name()), append(content, string(data))
		return f.Sync()
	})
	for _, data := range []string{"old", "new"} {
		if err := WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{root, temporary(path), dir, temporary(path), dir}; !slices.Equal(synced, want) {
		t.Errorf("synced %q, want %q", synced, want)
	}
	if want := []string{"", "", "old", "old", "new"}; !slices.Equal(content, want) {
		t.Errorf("content at each sync %q, want %q", content, want)
	}
}

func TestWriteFileNoSyncDoesNotSync(t *testing.T) {
	watchSyncs(t, func(f *os.File) error {
		t.Errorf("synced %s", f.Name())
		return nil
	})
	if err := WriteFileNoSync(filepath.Join(t.TempDir(), "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFailedWriteLeavesThePreviousFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	watchSyncs(t, func(*os.File) error { return syscall.EIO })
	if err := WriteFile(path, []byte("new"), 0o600); !errors.Is(err, syscall.EIO) {
		t.Errorf("error %v, want %v", err, syscall.EIO)
	}
	expect(t, path, "old")
	expectNames(t, dir, "file")
}

func TestFailedRenameLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("new"), 0o600); err == nil {
		t.Error("a folder was replaced")
	}
	expectNames(t, dir, "file")
}

// A writer that was killed leaves its temporary file.
func TestWriteFileReusesALeftover(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(temporary(path), []byte("half of a much longer content"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, path, "new")
	expectNames(t, dir, "file")
	if i, err := os.Stat(path); err != nil || i.Mode() != 0o600 {
		t.Errorf("mode %v, want 0600 (%v)", i.Mode(), err)
	}
}

func watchSyncs(t *testing.T, f func(*os.File) error) {
	t.Helper()
	old := fsync
	t.Cleanup(func() { fsync = old })
	fsync = f
}

func expect(t *testing.T, path, want string) {
	t.Helper()
	if data, err := os.ReadFile(path); err != nil || string(data) != want {
		t.Errorf("%s has %q, want %q (%v)", filepath.Base(path), data, want, err)
	}
}

func expectNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, want) {
		t.Errorf("folder has %q, want %q", names, want)
	}
}
