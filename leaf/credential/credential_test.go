package credential

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"
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

// TestLinkCredentials creates a gateway's key once, and its credentials from the JWT of that key only.
func TestLinkCredentials(t *testing.T) {
	dir := t.TempDir()
	public, err := Link(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Link(dir); err != nil || again != public {
		t.Errorf("a second time: %s, %v, want %s", again, err, public)
	}
	account, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.NewUserClaims(public).Encode(account)
	if err != nil {
		t.Fatal(err)
	}
	path, err := LinkCredentials(dir, token+"\n")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := jwt.ParseDecoratedJWT(data); err != nil || got != token {
		t.Errorf("the credentials hold the JWT %q, %v", got, err)
	}
	if pair, err := jwt.ParseDecoratedUserNKey(data); err != nil {
		t.Error(err)
	} else if got, err := pair.PublicKey(); err != nil || got != public {
		t.Errorf("the credentials hold the key of %s, %v", got, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	for name, bad := range map[string]string{"another key": "", "no JWT": "token"} {
		if bad == "" {
			other, err := Link(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			if bad, err = jwt.NewUserClaims(other).Encode(account); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := LinkCredentials(dir, bad); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v, want %v", name, err, ErrFormat)
		}
	}
}
