package fabric

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/petiole-io/petiole/bridge/accounts"
)

// Operator is a folder with the keys and the credentials of a hub in operator mode.
type Operator string

// Create creates the folder as `bridge hub init` does, for a hub that keeps its accounts in the
// folder store. It keeps a complete folder; one whose creation was interrupted, which no hub has
// used, it creates again.
func (o Operator) Create(store string) error {
	_, err := os.Stat(o.File(accounts.OperatorConf)) // is written last
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("find the operator of the hub: %w", err)
	}
	if err := os.RemoveAll(string(o)); err != nil {
		return fmt.Errorf("create the operator of the hub: %w", err)
	}
	return accounts.WriteHub(string(o), store)
}

// File returns the path of one of the files whose names package accounts has.
func (o Operator) File(name string) string { return filepath.Join(string(o), name) }
