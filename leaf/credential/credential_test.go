package credential

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/conf"
	"github.com/nats-io/nkeys"
)

// TestUsers makes a user of each kind, twice: nats-server reads what leaf.conf includes, it
// does not change, and nobody but its owner may read it.
func TestUsers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "users")
	var before string
	for range 2 {
		if err := errors.Join(KeyUser(dir, "operator"), PasswordUser(dir, "application")); err != nil {
			t.Fatal(err)
		}
		operator, err := conf.ParseFile(filepath.Join(dir, "operator.conf"))
		if err != nil || !nkeys.IsValidPublicUserKey(operator["nkey"].(string)) {
			t.Fatalf("operator.conf has %v: %v", operator, err)
		}
		application, err := conf.ParseFile(filepath.Join(dir, "application.conf"))
		if err != nil {
			t.Fatal(err)
		}
		password, err := ReadPassword(filepath.Join(dir, "application.conf"))
		if err != nil || password != application["password"] || len(password) < 20 {
			t.Errorf("ReadPassword = %q, %v; nats-server reads %v", password, err, application)
		}
		now := operator["nkey"].(string) + password
		if before != "" && now != before {
			t.Error("the second time changes a credential")
		}
		before = now
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Fatalf("the folder has %v: %v", entries, err)
	}
	for _, e := range entries {
		if i, err := e.Info(); err != nil || i.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %s, %v", e.Name(), i.Mode(), err)
		}
	}
}

func TestDamagedCredential(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"a.conf": "", "b.conf": "password: \"\"\n", "c.conf": "one\ntwo\n", "d.nk": "SUNOSEED\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, err := range map[string]error{
		"a.conf": PasswordUser(dir, "a"), "b.conf": PasswordUser(dir, "b"), "c.conf": PasswordUser(dir, "c"), "d.nk": KeyUser(dir, "d"),
	} {
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, want ErrFormat and the name", name, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "plain"), []byte("plain\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err := ReadPassword(filepath.Join(dir, "plain")); p != "plain" || err != nil {
		t.Errorf("a password alone reads %q, %v", p, err)
	}
}
