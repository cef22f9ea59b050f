package filestore

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.uber.org/zap"
)

// The prefixes of a stream's folder while it is encrypted. The second one is complete, and
// replaces the stream.
const (
	encrypting = ".encrypting-"
	encrypted  = ".encrypted-"
)

// Encrypt encrypts every stream of a store that is not, one at a time, and needs room for a second
// copy of the largest. It is safe to be ended at any moment: a stream is the old one or the new
// one. nats-server 2.15.2 would overwrite each block in place, and lose it if the power fails
// meanwhile. The server must not run, and Check must have been called before.
func Encrypt(ctx context.Context, store, key string, log *zap.Logger) error {
	if err := finishEncryption(store); err != nil {
		return fmt.Errorf("finish the encryption of a stream: %w", err)
	}
	folders, err := filepath.Glob(filepath.Join(store, "*", "streams", "*"))
	if err != nil {
		return fmt.Errorf("list streams: %w", err)
	}
	for _, dir := range folders {
		plain, err := isPlain(dir)
		if err != nil {
			return err
		}
		if !plain {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := encryptStream(dir, key); err != nil {
			return fmt.Errorf("encrypt stream %s: %w", filepath.Base(dir), err)
		}
		log.Info("stream encrypted", zap.String("stream", filepath.Base(dir)))
	}
	return nil
}

// isPlain reports whether a stream is not encrypted: its description is JSON, and there is no key.
// A stream without a description is not recovered by the server, and is left as it is.
func isPlain(dir string) (bool, error) {
	description, err := os.ReadFile(filepath.Join(dir, metaFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	m := messages{dir: filepath.Join(dir, messagesDir)}
	err = m.openKey()
	return !m.encrypted && json.Valid(description), err
}

// finishEncryption puts the streams in place that were encrypted when the process was ended, and
// removes the others.
func finishEncryption(store string) error {
	streams := filepath.Join(store, "*", "streams")
	partial, err := filepath.Glob(filepath.Join(streams, encrypting+"*"))
	if err != nil {
		return err
	}
	for _, dir := range partial {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	complete, err := filepath.Glob(filepath.Join(streams, encrypted+"*"))
	if err != nil {
		return err
	}
	for _, dir := range complete {
		if err := putInPlace(dir); err != nil {
			return err
		}
	}
	return nil
}

// putInPlace replaces a stream by its encrypted copy.
func putInPlace(dir string) error {
	in := filepath.Dir(dir)
	to := filepath.Join(in, strings.TrimPrefix(filepath.Base(dir), encrypted))
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if err := os.Rename(dir, to); err != nil {
		return err
	}
	return syncPath(in)
}

func encryptStream(dir, key string) error {
	streams, stream := filepath.Dir(dir), filepath.Base(dir)
	e := encryption{from: dir, to: filepath.Join(streams, encrypting+stream), key: key, account: filepath.Base(filepath.Dir(streams)), stream: stream}
	if err := e.copyAll(); err != nil {
		return errors.Join(err, os.RemoveAll(e.to))
	}
	done := filepath.Join(streams, encrypted+stream)
	if err := os.Rename(e.to, done); err != nil {
		return err
	}
	if err := syncPath(streams); err != nil {
		return err
	}
	return putInPlace(done)
}

// encryption is the encryption of one stream.
type encryption struct {
	from, to             string
	key, account, stream string
	asset                *asset
}

// copyAll writes the encrypted copy and syncs it.
func (e *encryption) copyAll() error {
	if err := os.Mkdir(e.to, 0o700); err != nil {
		return err
	}
	var err error
	if e.asset, err = e.newKey("", e.stream, keyFile); err != nil {
		return err
	}
	return filepath.WalkDir(e.from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(e.from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return e.copyFolder(name)
		}
		return e.copyFile(name)
	})
}

// copyFolder creates a folder, with its key if it is a consumer's.
func (e *encryption) copyFolder(name string) error {
	if name == "." {
		return nil
	}
	if err := os.Mkdir(filepath.Join(e.to, name), 0o700); err != nil {
		return err
	}
	if filepath.Dir(name) == consumersDir {
		_, err := e.newKey(name, consumerContext(e.stream, filepath.Base(name)), keyFile)
		return err
	}
	return syncPath(filepath.Join(e.to, filepath.Dir(name)))
}

// newKey creates the key file of an asset.
func (e *encryption) newKey(dir, context, file string) (*asset, error) {
	a, sealed, err := newAsset(e.key, e.account, context)
	if err != nil {
		return nil, err
	}
	return a, e.write(filepath.Join(dir, file), sealed)
}

// copyFile copies a file, encrypted as nats-server would write it. What is neither a block nor
// sealed, as the times at which messages expire, is copied as it is.
func (e *encryption) copyFile(name string) error {
	dir, file := filepath.Split(name)
	dir = filepath.Clean(dir)
	var number uint32
	n, err := fmt.Sscanf(file, "%d.blk", &number)
	switch {
	case dir == messagesDir && err == nil && n == 1:
		return e.copyBlock(name, number)
	case dir == messagesDir && file == indexFile:
		return e.copyIndex(name)
	case dir == "." && file == metaFile:
		return e.copyDescription(name, e.asset, e.stream)
	case filepath.Dir(dir) == consumersDir && (file == metaFile || file == stateFile):
		consumer := filepath.Base(dir)
		a, err := openAsset(filepath.Join(e.to, dir, keyFile), e.key, e.account, consumerContext(e.stream, consumer))
		if err != nil {
			return err
		}
		if file == metaFile {
			return e.copyDescription(name, a, e.stream+"/"+consumer)
		}
		return e.copySealed(name, a)
	case file == sumFile:
		return nil // copyDescription writes it
	}
	data, err := os.ReadFile(filepath.Join(e.from, name))
	if err != nil {
		return err
	}
	return e.write(name, data)
}

func (e *encryption) copySealed(name string, a *asset) error {
	plain, err := os.ReadFile(filepath.Join(e.from, name))
	if err != nil {
		return err
	}
	data, err := a.seal(plain)
	if err != nil {
		return err
	}
	return e.write(name, data)
}

// copyDescription copies a description and writes its checksum.
func (e *encryption) copyDescription(name string, a *asset, hashName string) error {
	if err := e.copySealed(name, a); err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(e.to, name))
	if err != nil {
		return err
	}
	sum, err := hashOf(hashName, data)
	if err != nil {
		return err
	}
	return e.write(filepath.Join(filepath.Dir(name), sumFile), []byte(hex.EncodeToString(sum)))
}

// copyIndex copies the index, without which deleted messages could appear again.
func (e *encryption) copyIndex(name string) error {
	plain, err := (&messages{dir: filepath.Join(e.from, messagesDir)}).readIndex()
	if err != nil || plain == nil {
		return err
	}
	data, err := e.asset.seal(plain)
	if err != nil {
		return err
	}
	sum, err := hashOf(e.stream, data)
	if err != nil {
		return err
	}
	return e.write(name, append(data, sum...))
}

func (e *encryption) copyBlock(name string, number uint32) (err error) {
	a, err := e.newKey(messagesDir, blockContext(e.stream, number), fmt.Sprintf("%d.key", number))
	if err != nil {
		return err
	}
	s, err := a.stream(0)
	if err != nil {
		return err
	}
	in, err := os.Open(filepath.Join(e.from, name))
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(filepath.Join(e.to, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	buffer := make([]byte, readAhead)
	for {
		n, err := in.Read(buffer)
		s.XORKeyStream(buffer[:n], buffer[:n])
		if _, err := out.Write(buffer[:n]); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) {
			return out.Sync()
		}
		if err != nil {
			return err
		}
	}
}

// write creates a file of the copy and syncs it and its folder.
func (e *encryption) write(name string, data []byte) error {
	path := filepath.Join(e.to, name)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return syncPath(filepath.Dir(path))
}

// syncPath syncs a folder.
func syncPath(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
