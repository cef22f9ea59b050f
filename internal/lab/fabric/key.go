package fabric

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/nats-io/nkeys"

	"github.com/petiole-io/petiole/internal/lab/render"
)

// Key returns the public key of the user nkey whose seed is in the file, and makes
// both when the file does not exist.
func Key(path string) (public string, err error) {
	seed, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return createKey(path)
	}
	if err != nil {
		return "", fmt.Errorf("read seed: %w", err)
	}
	pair, err := nkeys.FromSeed([]byte(strings.TrimSpace(string(seed))))
	if err != nil {
		return "", fmt.Errorf("read seed %s: %w", path, err)
	}
	return pair.PublicKey()
}

func createKey(path string) (string, error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return "", fmt.Errorf("create nkey: %w", err)
	}
	seed, err := pair.Seed()
	if err != nil {
		return "", fmt.Errorf("create nkey: %w", err)
	}
	if err := render.Secret(path, append(seed, '\n')); err != nil {
		return "", fmt.Errorf("write seed: %w", err)
	}
	return pair.PublicKey()
}
