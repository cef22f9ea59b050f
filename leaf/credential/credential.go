// Package credential makes the files that authenticate the users of a leaf.conf: random
// passwords and nkeys, each readable by its owner alone.
//
// A file that exists is kept and read, so that making it again changes nothing. The
// command `leaf user` and the lab call it; it starts nothing and sends nothing.
package credential

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nkeys"
)

const (
	fileMode   = 0o600
	folderMode = 0o700
)

// ErrFormat reports a file that holds no credential of the wanted kind.
var ErrFormat = errors.New("not a credential")

// Seed returns the public key of the user nkey whose seed is in the file at path, and
// makes both when there is no file.
func Seed(path string) (public string, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeSeed(path)
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

func makeSeed(path string) (string, error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return "", fmt.Errorf("make nkey: %w", err)
	}
	seed, err := pair.Seed()
	if err != nil {
		return "", fmt.Errorf("make nkey: %w", err)
	}
	if err := write(path, append(seed, '\n')); err != nil {
		return "", err
	}
	return pair.PublicKey()
}

// KeyUser makes what authenticates a user by nkey: the seed in dir/name.nk, which people
// give to `nats --nkey`, and dir/name.conf, which leaf.conf includes.
func KeyUser(dir, name string) error {
	public, err := Seed(filepath.Join(dir, name+".nk"))
	if err != nil {
		return err
	}
	return write(filepath.Join(dir, name+".conf"), fmt.Appendf(nil, "nkey: %s\n", public))
}

// PasswordUser makes a password, when there is none, in dir/name.conf, which leaf.conf
// includes; ReadPassword reads it.
func PasswordUser(dir, name string) error {
	path := filepath.Join(dir, name+".conf")
	_, err := ReadPassword(path)
	if errors.Is(err, fs.ErrNotExist) {
		return write(path, fmt.Appendf(nil, "password: %q\n", rand.Text()))
	}
	return err
}

// ReadPassword returns the password of a file: the only line of it, alone or as
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

// write replaces the file in one step, so that a crash leaves no half of a credential.
func write(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, folderMode); err != nil {
		return fmt.Errorf("make folder of credentials: %w", err)
	}
	f, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write credential: %w", err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(fileMode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write credential %s: %w", path, err), os.Remove(f.Name()))
	}
	return nil
}
