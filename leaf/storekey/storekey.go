package storekey

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/internal/durable"
)

const (
	// SealedName is the file of the sealed key in the data folder.
	SealedName = "store.key.sealed"
	// CopyName is a copy of it: the one that cannot be read is written again from the other.
	CopyName = "store.key.sealed.copy"
	// keySize is the length of every key, in bytes.
	keySize = 32
	// credentialsDir is set by systemd to the folder of the unit's credentials.
	credentialsDir = "CREDENTIALS_DIRECTORY"
)

var (
	// ErrKey reports an operator's key that does not open the sealed key.
	ErrKey = errors.New("not the key that the store is encrypted with")
	// ErrNoKey reports a sealed key without an operator's key.
	ErrNoKey = errors.New("the store is encrypted, and its key is not configured")
	// errUnsafe reports a key file that others can read, or that lies beside the data.
	errUnsafe = errors.New("not a safe place for the key")
)

// Config says where the keys are. The names of the fields in errors are those of leaf.yaml.
type Config struct {
	// DataDir is the folder of the sealed key.
	DataDir string
	// KeyFile is the file of the operator's key: an absolute path, or the name of a credential
	// of systemd. Empty: nothing is encrypted.
	KeyFile string
	// PreviousKeyFile is the file of the key that KeyFile replaces, empty if it replaces none.
	PreviousKeyFile string
}

// Key is the key of a store. Nil means that nothing is encrypted.
type Key struct{ master []byte }

// sealed is the content of the files in the data folder.
type sealed struct {
	Version int `json:"version"`
	// KeyID identifies the operator's key, without revealing it.
	KeyID string `json:"keyID"`
	// Key is the nonce and the key, sealed with AES-256-GCM.
	Key []byte `json:"key"`
}

// operatorKey seals the key of the store.
type operatorKey struct {
	id   string
	aead cipher.AEAD
}

// Open returns the key of the store, and creates it if there is none. It returns nil if no key is
// configured and the store has never been encrypted.
func Open(cfg Config, log *zap.Logger) (*Key, error) {
	files := []string{filepath.Join(cfg.DataDir, SealedName), filepath.Join(cfg.DataDir, CopyName)}
	found, damaged, err := readSealed(files)
	if err != nil {
		return nil, err
	}
	if cfg.KeyFile == "" {
		if len(found) > 0 || damaged != nil {
			return nil, fmt.Errorf("storage.encryption.keyFile: %w (%s exists)", ErrNoKey, files[0])
		}
		return nil, nil
	}
	current, err := readKey(cfg.DataDir, cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("storage.encryption.keyFile: %w", err)
	}
	if len(found) == 0 {
		if damaged != nil {
			return nil, fmt.Errorf("storage.encryption: both copies of the sealed key are damaged; restore one of them: %w", damaged)
		}
		return create(current, files, log)
	}
	k, err := open(found, current)
	if errors.Is(err, ErrKey) && cfg.PreviousKeyFile != "" {
		return rotate(cfg, found, current, files, log)
	}
	if err != nil {
		return nil, fmt.Errorf("storage.encryption.keyFile: %w", err)
	}
	if len(found) < len(files) || found[0].KeyID != found[1].KeyID {
		return k, k.write(current, files)
	}
	return k, nil
}

// create creates the key of a store.
func create(with operatorKey, files []string, log *zap.Logger) (*Key, error) {
	k := &Key{master: make([]byte, keySize)}
	if _, err := rand.Read(k.master); err != nil {
		return nil, fmt.Errorf("create the key of the store: %w", err)
	}
	log.Info("key of the store created", zap.String("sealed_with", with.id))
	return k, k.write(with, files)
}

// rotate seals the key of the store, which the previous key opens, with the current one.
func rotate(cfg Config, found []sealed, current operatorKey, files []string, log *zap.Logger) (*Key, error) {
	previous, err := readKey(cfg.DataDir, cfg.PreviousKeyFile)
	if err != nil {
		return nil, fmt.Errorf("storage.encryption.previousKeyFile: %w", err)
	}
	k, err := open(found, previous)
	if err != nil {
		return nil, fmt.Errorf("storage.encryption: neither keyFile (%s) nor previousKeyFile (%s) opens the store: %w", current.id, previous.id, err)
	}
	log.Info("key of the store sealed with another key; the previous key file is no longer needed",
		zap.String("sealed_with", current.id), zap.String("previously", previous.id))
	return k, k.write(current, files)
}

// readSealed returns the copies of the sealed key that can be read, and why one cannot.
func readSealed(files []string) (found []sealed, damaged, err error) {
	for _, f := range files {
		data, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read the sealed key of the store: %w", err)
		}
		var s sealed
		if err := json.Unmarshal(data, &s); err != nil || s.Version != 1 {
			damaged = fmt.Errorf("%s: version %d: %w", f, s.Version, err)
			continue
		}
		found = append(found, s)
	}
	return found, damaged, nil
}

// open returns the key of the store from one of its copies.
func open(found []sealed, with operatorKey) (*Key, error) {
	var ids []string
	for _, s := range found {
		n := with.aead.NonceSize()
		if len(s.Key) > n {
			if master, err := with.aead.Open(nil, s.Key[:n], s.Key[n:], nil); err == nil {
				return &Key{master: master}, nil
			}
		}
		ids = append(ids, s.KeyID)
	}
	return nil, fmt.Errorf("key %s: %w, which is %s", with.id, ErrKey, strings.Join(ids, " or "))
}

// write seals the key and writes both copies.
func (k *Key) write(with operatorKey, files []string) error {
	nonce := make([]byte, with.aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return fmt.Errorf("seal the key of the store: %w", err)
	}
	data, err := json.Marshal(sealed{Version: 1, KeyID: with.id, Key: with.aead.Seal(nonce, nonce, k.master, nil)})
	if err != nil {
		return fmt.Errorf("seal the key of the store: %w", err)
	}
	for _, f := range files {
		if err := durable.WriteFile(f, data, 0o600); err != nil {
			return fmt.Errorf("write the sealed key of the store: %w", err)
		}
	}
	return nil
}

// Store returns the key of JetStream's store, or "" if nothing is encrypted.
func (k *Key) Store() (string, error) {
	b, err := k.derive("jetstream")
	return hex.EncodeToString(b), err
}

// Tokens returns the key of the stored tokens, or nil if nothing is encrypted.
func (k *Key) Tokens() ([]byte, error) { return k.derive("tokens") }

func (k *Key) derive(purpose string) ([]byte, error) {
	if k == nil {
		return nil, nil
	}
	return hkdf.Key(sha256.New, k.master, nil, "petiole "+purpose, keySize)
}

// readKey reads an operator's key from a file or a credential of systemd. It rejects a file that
// others can read or that lies in the data folder.
func readKey(dataDir, name string) (operatorKey, error) {
	path := name
	if !filepath.IsAbs(name) {
		dir := os.Getenv(credentialsDir)
		if dir == "" {
			return operatorKey{}, fmt.Errorf("%q is not an absolute path, and there are no credentials of systemd ($%s is not set)", name, credentialsDir)
		}
		if !filepath.IsLocal(name) {
			return operatorKey{}, fmt.Errorf("%q is neither an absolute path nor the name of a credential", name)
		}
		path = filepath.Join(dir, name)
	} else if err := checkPlace(dataDir, path); err != nil {
		return operatorKey{}, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return operatorKey{}, err
	}
	text := strings.TrimSpace(string(data))
	if len(text) < keySize {
		return operatorKey{}, fmt.Errorf("%s has %d bytes, want at least %d random ones (openssl rand -base64 32)", path, len(text), keySize)
	}
	key, err := hkdf.Key(sha256.New, []byte(text), nil, "petiole seal", keySize)
	if err != nil {
		return operatorKey{}, err
	}
	id, err := hkdf.Key(sha256.New, []byte(text), nil, "petiole id", 4)
	if err != nil {
		return operatorKey{}, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return operatorKey{}, err
	}
	aead, err := cipher.NewGCM(block)
	return operatorKey{id: hex.EncodeToString(id), aead: aead}, err
}

// checkPlace reports a key file in the data folder, or one that others can read.
func checkPlace(dataDir, path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	if dataDir, err = filepath.EvalSymlinks(dataDir); err == nil {
		if in, err := filepath.Rel(dataDir, real); err == nil && filepath.IsLocal(in) {
			return fmt.Errorf("%s is in the data folder: %w", path, errUnsafe)
		}
	}
	info, err := os.Stat(real)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s has mode %04o, want 0600 or 0400: %w", path, mode, errUnsafe)
	}
	return nil
}
