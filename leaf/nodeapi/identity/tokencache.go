package identity

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
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/petiole-io/petiole/internal/durable"
)

// TokenID identifies the token that a kubelet requests. The audiences are those of the
// request: the API server fills in others if the request has none.
type TokenID struct {
	Namespace      string   `json:"namespace"`
	ServiceAccount string   `json:"serviceAccount"`
	PodUID         string   `json:"podUID"`
	Audiences      []string `json:"audiences"`
	Seconds        int64    `json:"seconds"`
}

func (id TokenID) file() (string, error) {
	b, err := json.Marshal(id)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

type storedToken struct {
	ID    TokenID                       `json:"id"`
	Token authenticationv1.TokenRequest `json:"token"`
	// Replaced are tokens that the pod had before and may still use, the latest first.
	Replaced []replacedToken `json:"replaced,omitempty"`
}

// replacedToken is a token of which only the digest is kept: enough to recognize it.
type replacedToken struct {
	Digest    tokenDigest `json:"digest"`
	Audiences []string    `json:"audiences"`
	Expires   time.Time   `json:"expires"`
}

// maxReplaced bounds the replaced tokens of a pod. A kubelet gets another one after 48 minutes or
// when it starts, and clients read the file again after a minute.
const maxReplaced = 8

type tokenDigest [sha256.Size]byte

// TokenCache keeps service account tokens on disk, one per file, encrypted. It is safe for
// concurrent use.
type TokenCache struct {
	dir  string
	aead cipher.AEAD
	// previous opens the tokens of a cache whose key was in the directory, nil if there are none.
	previous cipher.AEAD

	mu sync.Mutex
	// byPod holds the file names of the tokens of each pod.
	byPod map[string]map[string]struct{}
	// holders holds who each token was issued to, digests the tokens of each file.
	holders map[tokenDigest]Holder
	digests map[string][]tokenDigest
}

// tokenKeyName is the file of the key if the caller has none. It lies beside the tokens, so it
// protects copies of the token files alone.
const tokenKeyName = "tokens.key"

// OpenTokenCache opens the cache in dir, or creates it; dir must exist. key has 32 bytes; tokens
// that were encrypted with a key in dir are then encrypted again, and that key is removed. nil
// selects a key in dir. unreadable lists the files that it removed because they cannot be
// decrypted, for example because the key was lost.
func OpenTokenCache(dir string, key []byte) (c *TokenCache, unreadable []string, err error) {
	c = &TokenCache{
		dir: filepath.Join(dir, "tokens"), byPod: map[string]map[string]struct{}{},
		holders: map[tokenDigest]Holder{}, digests: map[string][]tokenDigest{},
	}
	if err := c.loadKeys(filepath.Join(dir, tokenKeyName), key); err != nil {
		return nil, nil, fmt.Errorf("load token key: %w", err)
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("create token directory: %w", err)
	}
	files, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("read token directory: %w", err)
	}
	for _, f := range files {
		t, err := c.read(f.Name())
		if err != nil {
			unreadable = append(unreadable, f.Name())
			if err := os.Remove(filepath.Join(c.dir, f.Name())); err != nil {
				return nil, unreadable, fmt.Errorf("remove unreadable token: %w", err)
			}
			continue
		}
		c.index(t, f.Name())
		if c.previous == nil {
			continue
		}
		if err := c.write(t, f.Name()); err != nil {
			return nil, unreadable, fmt.Errorf("encrypt token with another key: %w", err)
		}
	}
	if c.previous == nil {
		return c, unreadable, nil
	}
	c.previous = nil
	return c, unreadable, os.Remove(filepath.Join(dir, tokenKeyName))
}

// loadKeys sets the key, and the previous one if there is a file of it.
func (c *TokenCache) loadKeys(path string, key []byte) (err error) {
	if key == nil {
		key, err = readOrCreate(path, func() ([]byte, error) {
			b := make([]byte, 32)
			_, err := rand.Read(b)
			return b, err
		})
	} else {
		var previous []byte
		if previous, err = os.ReadFile(path); errors.Is(err, fs.ErrNotExist) {
			err = nil
		} else if err == nil {
			c.previous, err = newAEAD(previous)
		}
	}
	if err == nil {
		c.aead, err = newAEAD(key)
	}
	return err
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Put stores the answer to a request on disk. It remembers the token that it replaces, which the
// pod may still use.
func (c *TokenCache) Put(id TokenID, token *authenticationv1.TokenRequest) error {
	name, err := id.file()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	next := storedToken{ID: id, Token: *token}
	if before, err := c.read(name); err == nil {
		next.Replaced = before.Replaced
		if r := replaced(&before.Token); r.Digest != replaced(token).Digest {
			next.Replaced = append([]replacedToken{r}, next.Replaced...)
		}
		next.Replaced = next.Replaced[:min(len(next.Replaced), maxReplaced)]
	}
	if err := c.write(next, name); err != nil {
		return err
	}
	c.index(next, name)
	return nil
}

// write encrypts a token into its file.
func (c *TokenCache) write(t storedToken, name string) error {
	plain, err := json.Marshal(t)
	if err != nil {
		return err
	}
	nonce := make([]byte, c.aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(c.dir, name), c.aead.Seal(nonce, nonce, plain, []byte(name)), 0o600)
}

// Get returns the stored answer to a request, nil if there is none.
func (c *TokenCache) Get(id TokenID) (*authenticationv1.TokenRequest, error) {
	name, err := id.file()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t, err := c.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &t.Token, nil
}

// Retain removes the tokens of all pods that are not alive.
func (c *TokenCache) Retain(alive func(podUID string) bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for pod, names := range c.byPod {
		if alive(pod) {
			continue
		}
		for name := range names {
			if err := os.Remove(filepath.Join(c.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
				continue
			}
			delete(names, name)
			c.forget(name)
		}
		if len(names) == 0 {
			delete(c.byPod, pod)
		}
	}
	return errors.Join(errs...)
}

func (c *TokenCache) read(name string) (storedToken, error) {
	var t storedToken
	b, err := os.ReadFile(filepath.Join(c.dir, name))
	if err != nil {
		return t, err
	}
	n := c.aead.NonceSize()
	if len(b) < n {
		return t, fmt.Errorf("token file %s is truncated", name)
	}
	plain, err := c.aead.Open(nil, b[:n], b[n:], []byte(name))
	if err != nil && c.previous != nil {
		plain, err = c.previous.Open(nil, b[:n], b[n:], []byte(name))
	}
	if err != nil {
		return t, fmt.Errorf("decrypt token file %s: %w", name, err)
	}
	return t, json.Unmarshal(plain, &t)
}

// index notes the tokens of a file.
func (c *TokenCache) index(t storedToken, name string) {
	if c.byPod[t.ID.PodUID] == nil {
		c.byPod[t.ID.PodUID] = map[string]struct{}{}
	}
	c.byPod[t.ID.PodUID][name] = struct{}{}
	c.forget(name)
	for _, r := range append([]replacedToken{replaced(&t.Token)}, t.Replaced...) {
		c.digests[name] = append(c.digests[name], r.Digest)
		c.holders[r.Digest] = Holder{TokenID: t.ID, GrantedAudiences: r.Audiences, Expires: r.Expires}
	}
}

// forget forgets who the tokens of a file were issued to.
func (c *TokenCache) forget(name string) {
	for _, d := range c.digests[name] {
		delete(c.holders, d)
	}
	delete(c.digests, name)
}
