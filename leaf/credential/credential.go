// Package credential creates the files that authenticate the users of a leaf.conf: random
// passwords and nkeys, each readable by its owner only.
//
// It keeps and reads existing files, so that creating a credential again changes nothing.
// The command `leaf user` and the lab call it. It does not use the network.
package credential

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/petiole-io/petiole/internal/durable"
)

// ErrFormat reports a file that does not contain a credential of the wanted kind.
var ErrFormat = errors.New("not a credential")

// Seed returns the public key of the user nkey whose seed is in the file at path. If the file
// does not exist it creates both.
func Seed(path string) (public string, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return createSeed(path)
	}
	if err != nil {
		return "", fmt.Errorf("read seed: %w", err)
	}
	pair, err := nkeys.FromSeed([]byte(strings.TrimSpace(string(data))))
	if err != nil {
		return "", fmt.Errorf("seed in %s: %w: %w", path, ErrFormat, err)
	}
	return pair.PublicKey()
}

func createSeed(path string) (string, error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return "", fmt.Errorf("create nkey: %w", err)
	}
	seed, err := pair.Seed()
	if err != nil {
		return "", fmt.Errorf("create nkey: %w", err)
	}
	if err := write(path, append(seed, '\n')); err != nil {
		return "", err
	}
	return pair.PublicKey()
}

// KeyUser creates the credential of a user with an nkey: the seed in dir/name.nk, for
// `nats --nkey`, and dir/name.conf, which leaf.conf includes.
func KeyUser(dir, name string) error {
	public, err := Seed(filepath.Join(dir, name+".nk"))
	if err != nil {
		return err
	}
	return write(filepath.Join(dir, name+".conf"), fmt.Appendf(nil, "nkey: %s\n", public))
}

// Link creates dir/link.nk, the seed of the gateway's own nkey, unless there is one, and returns
// its public key.
func Link(dir string) (public string, err error) { return Seed(filepath.Join(dir, "link.nk")) }

// LinkCredentials creates dir/link.creds, with which the leaf connects to a hub in operator mode:
// the seed that Link has created, and the JWT of its public key. It returns the path.
func LinkCredentials(dir, token string) (path string, err error) {
	return Credentials(filepath.Join(dir, "link.nk"), token)
}

// Credentials creates the credentials of a user of a hub in operator mode, beside the seed that
// Seed has created and with the extension .creds: the seed, and the JWT of its public key. It
// returns the path.
func Credentials(seedFile, token string) (path string, err error) {
	public, err := Seed(seedFile)
	if err != nil {
		return "", err
	}
	token = strings.TrimSpace(token)
	user, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return "", fmt.Errorf("JWT: %w: %w", ErrFormat, err)
	}
	if user.Subject != public {
		return "", fmt.Errorf("JWT: %w: it is that of %s, and the key in %s is %s", ErrFormat, user.Subject, seedFile, public)
	}
	seed, err := os.ReadFile(seedFile)
	if err != nil {
		return "", fmt.Errorf("read seed: %w", err)
	}
	creds, err := jwt.FormatUserConfig(token, bytes.TrimSpace(seed))
	if err != nil {
		return "", fmt.Errorf("format credentials: %w", err)
	}
	path = strings.TrimSuffix(seedFile, filepath.Ext(seedFile)) + ".creds"
	return path, write(path, creds)
}

// PasswordUser creates a password in dir/name.conf, which leaf.conf includes, unless there is
// one. ReadPassword reads it.
func PasswordUser(dir, name string) error {
	path := filepath.Join(dir, name+".conf")
	_, err := ReadPassword(path)
	if errors.Is(err, fs.ErrNotExist) {
		return write(path, fmt.Appendf(nil, "password: %q\n", rand.Text()))
	}
	return err
}

// ReadPassword returns the password in a file of one line, either the password alone or as
// PasswordUser writes it.
func ReadPassword(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	password := strings.TrimSpace(string(data))
	if rest, ok := strings.CutPrefix(password, "password:"); ok {
		password = strings.Trim(strings.TrimSpace(rest), `"`)
	}
	if password == "" || strings.Contains(password, "\n") {
		return "", fmt.Errorf("password in %s: %w: want one line, the password", path, ErrFormat)
	}
	return password, nil
}

func write(path string, data []byte) error {
	if err := durable.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("write credential %s: %w", path, err)
	}
	return nil
}
