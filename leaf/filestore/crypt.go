package filestore

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// How nats-server 2.15.2 encrypts with the cipher AES (genEncryptionKeys in
// server/filestore.go). Each stream, consumer and block has a random key of its own, on disk
// sealed with one that follows from the key of the store, the account and the name. Descriptions,
// indexes and states are sealed with AES-GCM; a block is encrypted with AES-CTR from its
// beginning, which its records' hashes do not authenticate.
const (
	// keyFile exists if a stream or a consumer is encrypted.
	keyFile  = "meta.key"
	metaFile = "meta.inf"
	seedSize = 32
)

var (
	// ErrKey reports that the key of a store is missing or another one.
	ErrKey = errors.New("the store is encrypted with another key")
	// errAsset reports a damaged key file, or one of another store.
	errAsset = errors.New("cannot be opened with the key of the store")
)

// asset is the key of a stream, a consumer or a block.
type asset struct{ seed, nonce []byte }

func consumerContext(stream, consumer string) string { return stream + "." + consumer }

func blockContext(stream string, number uint32) string { return fmt.Sprintf("%s:%d", stream, number) }

// sealer returns what seals the key of an asset.
func sealer(key, account, context string) (cipher.AEAD, error) {
	h := hmac.New(sha256.New, []byte(key))
	if _, err := h.Write([]byte(account + context)); err != nil {
		return nil, err
	}
	return newAEAD(h.Sum(nil))
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithNonceSize(block, aes.BlockSize)
}

// openAsset returns the key in a file. It returns errAsset if the file is damaged or of another
// store.
func openAsset(path, key, account, context string) (*asset, error) {
	sealed, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	aead, err := sealer(key, account, context)
	if err != nil {
		return nil, err
	}
	seed, err := openSealed(aead, sealed)
	if err != nil || len(seed) != seedSize {
		return nil, fmt.Errorf("%s %w", path, errAsset)
	}
	return &asset{seed: seed, nonce: sealed[:aes.BlockSize]}, nil
}

// newAsset returns a new key, and what is to be written to its file.
func newAsset(key, account, context string) (*asset, []byte, error) {
	aead, err := sealer(key, account, context)
	if err != nil {
		return nil, nil, err
	}
	seed := make([]byte, seedSize)
	if _, err := rand.Read(seed); err != nil {
		return nil, nil, err
	}
	sealed, err := seal(aead, seed)
	if err != nil {
		return nil, nil, err
	}
	return &asset{seed: seed, nonce: sealed[:aes.BlockSize]}, sealed, nil
}

func openSealed(aead cipher.AEAD, data []byte) ([]byte, error) {
	if len(data) < aes.BlockSize {
		return nil, errAsset
	}
	plain, err := aead.Open(nil, data[:aes.BlockSize], data[aes.BlockSize:], nil)
	if err != nil {
		return nil, errAsset
	}
	return plain, nil
}

func seal(aead cipher.AEAD, plain []byte) ([]byte, error) {
	nonce := make([]byte, aes.BlockSize, aes.BlockSize+len(plain)+aead.Overhead())
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return aead.Seal(nonce, nonce, plain, nil), nil
}

// open decrypts a file that is sealed with the asset. A nil asset opens nothing.
func (a *asset) open(data []byte) ([]byte, error) {
	if a == nil {
		return nil, errAsset
	}
	aead, err := newAEAD(a.seed)
	if err != nil {
		return nil, err
	}
	return openSealed(aead, data)
}

func (a *asset) seal(plain []byte) ([]byte, error) {
	aead, err := newAEAD(a.seed)
	if err != nil {
		return nil, err
	}
	return seal(aead, plain)
}

// stream returns the key stream of a block from an offset on.
func (a *asset) stream(offset int64) (cipher.Stream, error) {
	block, err := aes.NewCipher(a.seed)
	if err != nil {
		return nil, err
	}
	// The counter is the nonce, a big-endian number, plus the number of the cipher's block.
	counter := append([]byte(nil), a.nonce...)
	carry := uint64(offset / aes.BlockSize)
	for i := len(counter) - 1; i >= 0 && carry > 0; i-- {
		carry += uint64(counter[i])
		counter[i] = byte(carry)
		carry >>= 8
	}
	s := cipher.NewCTR(block, counter)
	skip := make([]byte, offset%aes.BlockSize)
	s.XORKeyStream(skip, skip)
	return s, nil
}

// openKey opens the key of a stream, if it is encrypted.
func (m *messages) openKey() error {
	a, err := openAsset(filepath.Join(filepath.Dir(m.dir), keyFile), m.key, m.account(), m.stream())
	if errors.Is(err, fs.ErrNotExist) {
		blocks, err := filepath.Glob(filepath.Join(m.dir, "*.key"))
		m.encrypted = len(blocks) > 0
		return err
	}
	m.encrypted = true
	if errors.Is(err, errAsset) {
		return nil // the server does not recover the stream; its blocks may be used again
	}
	m.asset = a
	return err
}

func (m *messages) keyPath(b block) string {
	return filepath.Join(m.dir, fmt.Sprintf("%d.key", b.number))
}

// blockKey returns the key of a block, or nil if it is not encrypted.
func (m *messages) blockKey(b block) (*asset, error) {
	if !m.encrypted {
		return nil, nil
	}
	a, err := openAsset(m.keyPath(b), m.key, m.account(), blockContext(m.stream(), b.number))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", err, errAsset)
	}
	return a, err
}

// decrypt returns the content of a block from its beginning.
func (m *messages) decrypt(b block, f io.ReadSeeker) (io.Reader, error) {
	return m.decryptFrom(b, f, 0)
}

// decryptFrom returns the content of a block from an offset on.
func (m *messages) decryptFrom(b block, f io.ReadSeeker, offset int64) (io.Reader, error) {
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, err
	}
	a, err := m.blockKey(b)
	if err != nil || a == nil {
		return f, err
	}
	s, err := a.stream(offset)
	if err != nil {
		return nil, err
	}
	return cipher.StreamReader{S: s, R: f}, nil
}

// CheckKey returns ErrKey if a store has encrypted streams and key opens none of them. An empty
// key is none.
func CheckKey(store, key string) error {
	files, err := filepath.Glob(filepath.Join(store, "*", "streams", "*", keyFile))
	if err != nil {
		return fmt.Errorf("list streams: %w", err)
	}
	for _, f := range files {
		dir := filepath.Dir(f)
		_, err := openAsset(f, key, filepath.Base(filepath.Dir(filepath.Dir(dir))), filepath.Base(dir))
		if err == nil || !errors.Is(err, errAsset) {
			return err
		}
	}
	if len(files) > 0 {
		return fmt.Errorf("%w: none of %d streams in %s opens", ErrKey, len(files), store)
	}
	return nil
}
