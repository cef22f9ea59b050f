package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestStoreOfAnEarlierVersionIsNamed starts with no store, one of a hub in operator mode, and one of
// a hub with its accounts in hub.conf.
func TestStoreOfAnEarlierVersionIsNamed(t *testing.T) {
	dir := t.TempDir()
	if err := checkHubStore(dir); err != nil {
		t.Errorf("no store: %v", err)
	}
	for account, refused := range map[string]bool{"ACXYZ": false, "FABRIC": true} {
		if err := os.MkdirAll(filepath.Join(dir, "jetstream", account), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := checkHubStore(dir); (err != nil) != refused || refused && !strings.Contains(err.Error(), "PURGE=1") {
			t.Errorf("%s: %v", account, err)
		}
		if err := os.RemoveAll(filepath.Join(dir, "jetstream")); err != nil {
			t.Fatal(err)
		}
	}
}
