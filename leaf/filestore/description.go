package filestore

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/internal/durable"
)

const sumFile = "meta.sum"

// The configurations as nats-server stores them (FileStreamInfo and FileConsumerInfo in
// server/filestore.go).
type (
	streamInfo struct {
		Created time.Time
		jetstream.StreamConfig
	}
	consumerInfo struct {
		Created time.Time
		Name    string
		jetstream.ConsumerConfig
	}
)

// description is what nats-server 2.15.2 writes about a stream or a consumer: its configuration
// in metaFile, then the hash of that in sumFile. Each is replaced on its own, so that a kill or
// a full disk leaves a new configuration with an old hash (docs/upstream.md, 26).
type description struct {
	dir string
	// hashName is the name that the hash depends on.
	hashName string
	// sealed is set if the configuration is encrypted, and asset is its key, nil if that is damaged.
	sealed bool
	asset  *asset
	// readable reports whether it is the configuration of this stream or consumer.
	readable func(config []byte) bool
}

// repairDescriptions makes the descriptions of streams and consumers such that nats-server
// recovers them: it writes the checksum of a configuration that can be read, and the
// configuration of a known stream whose own one cannot be.
func repairDescriptions(store, key string, known []jetstream.StreamConfig, log *zap.Logger) error {
	folders, err := filepath.Glob(filepath.Join(store, "*", "streams", "*"))
	if err != nil {
		return fmt.Errorf("list streams: %w", err)
	}
	var errs []error
	for _, dir := range folders {
		if strings.HasPrefix(filepath.Base(dir), ".") {
			continue // about to be removed, or to be put in place
		}
		if err := repairStream(dir, key, known, log); err != nil {
			errs = append(errs, fmt.Errorf("repair the description of stream %s: %w", filepath.Base(dir), err))
		}
		consumers, err := filepath.Glob(filepath.Join(dir, consumersDir, "*"))
		errs = append(errs, err)
		for _, c := range consumers {
			if err := repairConsumer(c, key, log); err != nil {
				errs = append(errs, fmt.Errorf("repair the description of consumer %s of %s: %w", filepath.Base(c), filepath.Base(dir), err))
			}
		}
	}
	return errors.Join(errs...)
}

func repairStream(dir, key string, known []jetstream.StreamConfig, log *zap.Logger) error {
	m := messages{dir: filepath.Join(dir, messagesDir), key: key}
	if err := m.openKey(); err != nil {
		return err
	}
	name := m.stream()
	d := description{dir: dir, hashName: name, sealed: m.encrypted, asset: m.asset, readable: func(config []byte) bool {
		var info streamInfo
		return decodeStrictly(config, &info) == nil && info.Name == name
	}}
	repaired, err := d.repairSum(log)
	if err != nil || repaired || d.sealed && d.asset == nil {
		return err
	}
	i := slices.IndexFunc(known, func(c jetstream.StreamConfig) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	log.Warn("description of a stream written again, it is damaged", zap.String("file", d.path(metaFile)))
	return d.restore(known[i])
}

func repairConsumer(dir, key string, log *zap.Logger) error {
	sealed, a, err := openConsumerKey(dir, key)
	if err != nil {
		return err
	}
	stream, name := filepath.Base(filepath.Dir(filepath.Dir(dir))), filepath.Base(dir)
	d := description{dir: dir, hashName: stream + "/" + name, sealed: sealed, asset: a, readable: func(config []byte) bool {
		var info consumerInfo
		return decodeStrictly(config, &info) == nil && info.Name == name
	}}
	_, err = d.repairSum(log)
	return err
}

// decodeStrictly decodes JSON as nats-server does: another field, or anything behind it, is an
// error.
func decodeStrictly(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("data after the end")
	}
	return nil
}

func (d description) path(name string) string { return filepath.Join(d.dir, name) }

// repairSum reports whether the checksum matches, which it writes if the configuration can be
// read.
func (d description) repairSum(log *zap.Logger) (bool, error) {
	data, err := os.ReadFile(d.path(metaFile))
	if err != nil {
		return false, ignoreMissing(err)
	}
	sum, err := d.sumOf(data)
	if err != nil {
		return false, err
	}
	have, err := os.ReadFile(d.path(sumFile))
	if ignoreMissing(err) != nil {
		return false, err
	}
	if bytes.Equal(have, sum) {
		return true, nil
	}
	config := data
	if d.sealed {
		if config, err = d.asset.open(data); err != nil {
			return false, nil //nolint:nilerr // damaged
		}
	}
	if !d.readable(config) {
		return false, nil
	}
	log.Warn("checksum of a description written again, it is that of another one", zap.String("file", d.path(sumFile)), zap.ByteString("had", have), zap.ByteString("written", sum))
	return true, overwrite(d.path(sumFile), sum)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (d description) sumOf(data []byte) ([]byte, error) {
	sum, err := hashOf(d.hashName, data)
	return []byte(hex.EncodeToString(sum)), err
}

// restore writes the description of a stream that is created now.
func (d description) restore(config jetstream.StreamConfig) error {
	data, err := json.Marshal(streamInfo{Created: time.Now().UTC(), StreamConfig: config})
	if err != nil {
		return err
	}
	if d.sealed {
		if data, err = d.asset.seal(data); err != nil {
			return err
		}
	}
	sum, err := d.sumOf(data)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(d.path(metaFile), data, 0o600); err != nil {
		return err
	}
	return overwrite(d.path(sumFile), sum)
}

// overwrite writes a checksum in place, since a disk on which another file does not fit is how
// it comes not to match. Ended half-way it does not match either, and the next check repairs it.
func overwrite(path string, sum []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(sum); err == nil {
		err = f.Truncate(int64(len(sum)))
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return syncPath(filepath.Dir(path))
}
