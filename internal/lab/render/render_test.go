package render

import (
	"os"
	"path/filepath"
	"testing"
)

// TestWriteReplaces: readers of a file see the old or the new content as a whole, so the
// file is another one afterwards, and nothing else is left in the folder.
func TestWriteReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder", "file")
	if err := Secret(path, []byte("old")); err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := Write(path, []byte("newer"), 0o644); err != nil {
		t.Fatal(err)
	}
	old := make([]byte, 10)
	if n, _ := reader.Read(old); string(old[:n]) != "old" {
		t.Errorf("the old file was changed in place: %q", old[:n])
	}
	data, err := os.ReadFile(path)
	if err != nil || string(data) != "newer" {
		t.Errorf("file holds %q, %v", data, err)
	}
	before, err := os.Stat(path)
	if err != nil || before.Mode() != 0o644 {
		t.Errorf("mode %v, %v", before.Mode(), err)
	}
	if err := Write(path, []byte("newer"), 0o644); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("written again without need: %v", err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v, %v", entries, err)
	}
}
