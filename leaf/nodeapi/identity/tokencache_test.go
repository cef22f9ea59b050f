package identity

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDamagedTokensAreRemoved(t *testing.T) {
	dir := t.TempDir()
	v, _, err := OpenTokenCache(dir, nil)
	must(t, err)
	id := TokenID{Namespace: "n", ServiceAccount: "s", PodUID: "u"}
	must(t, v.Put(id, &authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{Token: "x"}}))
	name, err := id.file()
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "tokens", name), []byte("damaged beyond repair"), 0o600))
	v, unreadable, err := OpenTokenCache(dir, nil)
	must(t, err)
	if len(unreadable) != 1 {
		t.Errorf("unreadable = %v", unreadable)
	}
	if got, err := v.Get(id); got != nil || err != nil {
		t.Errorf("get = %v, %v", got, err)
	}
}

// TestFileNames checks the names and modes of the files: with other names, a leaf that is
// updated would create new credentials and lose the tokens of running pods.
func TestFileNames(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "nodeapi")
	_, err := Load(dir, "node-1")
	must(t, err)
	_, _, err = OpenTokenCache(dir, nil)
	must(t, err)
	modes := map[string]os.FileMode{"kubelet.token": 0o600, "serving.pem": 0o600, "tokens": 0o700, "tokens.key": 0o600}
	files, err := os.ReadDir(dir)
	must(t, err)
	for _, f := range files {
		info, err := f.Info()
		must(t, err)
		if mode, ok := modes[f.Name()]; !ok || info.Mode().Perm() != mode {
			t.Errorf("%s has mode %v, want %v", f.Name(), info.Mode(), mode)
		}
	}
	if len(files) != len(modes) {
		t.Errorf("files = %v, want %v", files, modes)
	}
}

// TestTokensAreEncryptedAgain gives a key to a cache that had one in its directory, as after an
// update: the tokens stay, and that key is gone. Without the right key they are not there.
func TestTokensAreEncryptedAgain(t *testing.T) {
	dir := t.TempDir()
	before, _, err := OpenTokenCache(dir, nil)
	must(t, err)
	id := TokenID{Namespace: "n", ServiceAccount: "s", PodUID: "u"}
	must(t, before.Put(id, &authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{Token: "x"}}))
	key := bytes.Repeat([]byte{1}, 32)
	for range 2 {
		c, unreadable, err := OpenTokenCache(dir, key)
		must(t, err)
		if got, err := c.Get(id); err != nil || got == nil || got.Status.Token != "x" || len(unreadable) > 0 {
			t.Fatalf("get = %v, %v; unreadable %v", got, err, unreadable)
		}
		if _, err := os.Stat(filepath.Join(dir, "tokens.key")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the key beside the tokens: %v", err)
		}
	}
	c, _, err := OpenTokenCache(dir, bytes.Repeat([]byte{2}, 32))
	must(t, err)
	if got, err := c.Get(id); got != nil || err != nil {
		t.Errorf("with another key: %v, %v", got, err)
	}
}
