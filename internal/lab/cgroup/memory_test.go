package cgroup

import (
	"os"
	"path/filepath"
	"testing"
)

// TestReadFields reads the lines of memory.stat that are wanted, and names the file of a number that
// is none.
func TestReadFields(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "memory.stat")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("cache 1\ntotal_cache 42\ntotal_rss 7\nhierarchical_memory_limit 9223372036854771712\n")
	var m Memory
	if err := readFields(file, map[string]*int64{"total_cache": &m.Cache, "total_rss": &m.Anonymous}); err != nil {
		t.Fatal(err)
	}
	if m != (Memory{Cache: 42, Anonymous: 7}) {
		t.Errorf("%+v", m)
	}
	write("total_cache many\n")
	if err := readFields(file, map[string]*int64{"total_cache": &m.Cache}); err == nil {
		t.Error("no error")
	}
	if err := ignoreMissing(readFields(file+"-removed", nil)); err != nil {
		t.Error(err)
	}
}
