package storekey

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// keyFile creates an operator's key outside of the data folder.
func keyFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store.key")
	must(t, os.WriteFile(path, []byte(strings.Repeat(text, 32)+"\n"), 0o600))
	return path
}

func storeKey(t *testing.T, cfg Config) string {
	t.Helper()
	k, err := Open(cfg, zap.NewNop())
	must(t, err)
	s, err := k.Store()
	must(t, err)
	return s
}

// TestKeyStaysTheSame opens a store again, rotates its key, and loses one copy after the other.
func TestKeyStaysTheSame(t *testing.T) {
	dir, first, second := t.TempDir(), keyFile(t, "a"), keyFile(t, "b")
	want := storeKey(t, Config{DataDir: dir, KeyFile: first})
	if len(want) != 2*keySize {
		t.Fatalf("key %q", want)
	}
	steps := []struct {
		name string
		do   func() error
		cfg  Config
	}{
		{"again", func() error { return nil }, Config{KeyFile: first}},
		{"without the first copy", func() error { return os.Remove(filepath.Join(dir, SealedName)) }, Config{KeyFile: first}},
		{"with a damaged copy", func() error { return os.WriteFile(filepath.Join(dir, SealedName), []byte("x"), 0o600) }, Config{KeyFile: first}},
		{"without the second copy", func() error { return os.Remove(filepath.Join(dir, CopyName)) }, Config{KeyFile: first}},
		{"with another key", func() error { return nil }, Config{KeyFile: second, PreviousKeyFile: first}},
		{"with another key, again", func() error { return nil }, Config{KeyFile: second, PreviousKeyFile: first}},
		{"after the rotation", func() error { return os.Remove(first) }, Config{KeyFile: second}},
	}
	for _, s := range steps {
		must(t, s.do())
		s.cfg.DataDir = dir
		if got := storeKey(t, s.cfg); got != want {
			t.Fatalf("%s: another key", s.name)
		}
	}
	for _, name := range []string{SealedName, CopyName} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		if strings.Contains(string(data), want) {
			t.Errorf("%s holds the key", name)
		}
	}
}

// TestRotationEndsInTheMiddle has one copy with each key, as after a power cut.
func TestRotationEndsInTheMiddle(t *testing.T) {
	dir, first, second := t.TempDir(), keyFile(t, "a"), keyFile(t, "b")
	want := storeKey(t, Config{DataDir: dir, KeyFile: first})
	before, err := os.ReadFile(filepath.Join(dir, CopyName))
	must(t, err)
	storeKey(t, Config{DataDir: dir, KeyFile: second, PreviousKeyFile: first})
	must(t, os.WriteFile(filepath.Join(dir, CopyName), before, 0o600))
	for range 2 {
		if got := storeKey(t, Config{DataDir: dir, KeyFile: second, PreviousKeyFile: first}); got != want {
			t.Error("another key")
		}
	}
	if _, err := Open(Config{DataDir: dir, KeyFile: first}, zap.NewNop()); !errors.Is(err, ErrKey) {
		t.Errorf("the previous key still opens the store: %v", err)
	}
}

// TestKeyIsRefused tries what must never lead to a new key.
func TestKeyIsRefused(t *testing.T) {
	dir, right := t.TempDir(), keyFile(t, "a")
	storeKey(t, Config{DataDir: dir, KeyFile: right})
	open := keyFile(t, "c")
	must(t, os.Chmod(open, 0o640))
	beside := filepath.Join(dir, "key")
	must(t, os.WriteFile(beside, []byte(strings.Repeat("a", 64)), 0o600))
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(beside, link))
	empty := filepath.Join(t.TempDir(), "short")
	must(t, os.WriteFile(empty, []byte("short"), 0o600))
	t.Setenv(credentialsDir, "")
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"none":                {Config{}, "storage.encryption.keyFile: the store is encrypted"},
		"another":             {Config{KeyFile: keyFile(t, "b")}, "not the key that the store is encrypted with, which is "},
		"two others":          {Config{KeyFile: keyFile(t, "b"), PreviousKeyFile: keyFile(t, "c")}, "neither keyFile"},
		"readable by others":  {Config{KeyFile: open}, "mode 0640"},
		"beside the data":     {Config{KeyFile: beside}, "is in the data folder"},
		"a link to the data":  {Config{KeyFile: link}, "is in the data folder"},
		"short":               {Config{KeyFile: empty}, "has 5 bytes"},
		"missing":             {Config{KeyFile: "/nonexistent/key"}, "no such file"},
		"a credential, alone": {Config{KeyFile: "store.key"}, "$CREDENTIALS_DIRECTORY is not set"},
	} {
		c.cfg.DataDir = dir
		if _, err := Open(c.cfg, zap.NewNop()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	must(t, os.WriteFile(filepath.Join(dir, SealedName), []byte("{"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, CopyName), nil, 0o600))
	if _, err := Open(Config{DataDir: dir, KeyFile: right}, zap.NewNop()); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("with two damaged copies: %v", err)
	}
}

func TestCredentialOfSystemd(t *testing.T) {
	dir, credentials := t.TempDir(), t.TempDir()
	t.Setenv(credentialsDir, credentials)
	must(t, os.WriteFile(filepath.Join(credentials, "store.key"), []byte(strings.Repeat("k", 44)), 0o440))
	cfg := Config{DataDir: dir, KeyFile: "store.key"}
	want := storeKey(t, cfg)
	if got := storeKey(t, cfg); got != want {
		t.Error("another key")
	}
}

func TestWithoutEncryption(t *testing.T) {
	k, err := Open(Config{DataDir: t.TempDir()}, zap.NewNop())
	if k != nil || err != nil {
		t.Fatalf("%v, %v", k, err)
	}
	if s, err := k.Store(); s != "" || err != nil {
		t.Errorf("%q, %v", s, err)
	}
	if b, err := k.Tokens(); b != nil || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}
