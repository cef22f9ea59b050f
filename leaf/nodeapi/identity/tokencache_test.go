package identity

import (
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
	v, _, err := OpenTokenCache(dir)
	must(t, err)
	id := TokenID{Namespace: "n", ServiceAccount: "s", PodUID: "u"}
	must(t, v.Put(id, &authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{Token: "x"}}))
	name, err := id.file()
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "tokens", name), []byte("damaged beyond repair"), 0o600))
	v, unreadable, err := OpenTokenCache(dir)
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
	_, _, err = OpenTokenCache(dir)
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
