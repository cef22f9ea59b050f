package nodeapi

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	authenticationv1 "k8s.io/api/authentication/v1"
)

// tokenID is what a kubelet asks a token for. The audiences are those of the
// request: the answer fills in others where the request names none.
type tokenID struct {
	Namespace      string   `json:"namespace"`
	ServiceAccount string   `json:"serviceAccount"`
	PodUID         string   `json:"podUID"`
	Audiences      []string `json:"audiences"`
	Seconds        int64    `json:"seconds"`
}

func (id tokenID) file() (string, error) {
	b, err := json.Marshal(id)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

type storedToken struct {
	ID    tokenID                       `json:"id"`
	Token authenticationv1.TokenRequest `json:"token"`
}

// vault keeps service account tokens on disk, each in a file of its own, encrypted
// with a key beside them that only this user reads. That guards copies and backups of
// the files; who reads the key reads the tokens.
type vault struct {
	dir  string
	aead cipher.AEAD

	mu sync.Mutex
	// byPod holds the file names of each pod.
	byPod map[string]map[string]struct{}
}

// openVault opens the vault in dir, or makes it. unreadable names the files that it
// removed because they cannot be decrypted, as after a lost key.
func openVault(dir string) (v *vault, unreadable []string, err error) {
	key, err := once(filepath.Join(dir, "tokens.key"), func() ([]byte, error) {
		b := make([]byte, 32)
		_, err := rand.Read(b)
		return b, err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("load token key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, nil, fmt.Errorf("load token key: %w", err)
	}
	v = &vault{dir: filepath.Join(dir, "tokens"), byPod: map[string]map[string]struct{}{}}
	if v.aead, err = cipher.NewGCM(block); err != nil {
		return nil, nil, fmt.Errorf("load token key: %w", err)
	}
	if err := os.MkdirAll(v.dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make token directory: %w", err)
	}
	files, err := os.ReadDir(v.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("read token directory: %w", err)
	}
	for _, f := range files {
		t, err := v.read(f.Name())
		if err != nil {
			unreadable = append(unreadable, f.Name())
			if err := os.Remove(filepath.Join(v.dir, f.Name())); err != nil {
				return nil, unreadable, fmt.Errorf("remove unreadable token: %w", err)
			}
			continue
		}
		v.index(t.ID.PodUID, f.Name())
	}
	return v, unreadable, nil
}

// put stores the answer to a request, durably.
func (v *vault) put(id tokenID, token *authenticationv1.TokenRequest) error {
	name, err := id.file()
	if err != nil {
		return err
	}
	plain, err := json.Marshal(storedToken{ID: id, Token: *token})
	if err != nil {
		return err
	}
	nonce := make([]byte, v.aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := writeFile(filepath.Join(v.dir, name), v.aead.Seal(nonce, nonce, plain, []byte(name))); err != nil {
		return err
	}
	v.index(id.PodUID, name)
	return nil
}

// get returns the stored answer to a request, nil when there is none.
func (v *vault) get(id tokenID) (*authenticationv1.TokenRequest, error) {
	name, err := id.file()
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	t, err := v.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &t.Token, nil
}

// keepOnly removes the tokens of the pods that are not alive.
func (v *vault) keepOnly(alive func(podUID string) bool) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var errs []error
	for pod, names := range v.byPod {
		if alive(pod) {
			continue
		}
		for name := range names {
			if err := os.Remove(filepath.Join(v.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
				continue
			}
			delete(names, name)
		}
		if len(names) == 0 {
			delete(v.byPod, pod)
		}
	}
	return errors.Join(errs...)
}

func (v *vault) read(name string) (storedToken, error) {
	var t storedToken
	b, err := os.ReadFile(filepath.Join(v.dir, name))
	if err != nil {
		return t, err
	}
	n := v.aead.NonceSize()
	if len(b) < n {
		return t, fmt.Errorf("token file %s is cut short", name)
	}
	plain, err := v.aead.Open(nil, b[:n], b[n:], []byte(name))
	if err != nil {
		return t, fmt.Errorf("decrypt token file %s: %w", name, err)
	}
	return t, json.Unmarshal(plain, &t)
}

func (v *vault) index(pod, name string) {
	if v.byPod[pod] == nil {
		v.byPod[pod] = map[string]struct{}{}
	}
	v.byPod[pod][name] = struct{}{}
}
