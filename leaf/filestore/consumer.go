package filestore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.uber.org/zap"
)

// The beginning of a consumer's state file, as nats-server 2.15.2 writes it
// (encodeConsumerState in server/filestore.go).
const (
	stateFile  = "o.dat"
	stateMagic = 22
	// maxState is the longest state file that is accepted, in bytes: that of a million
	// deliveries.
	maxState = 16 << 20
)

// checkConsumers removes the state files that would keep nats-server from starting: it trusts
// the counts in them, and allocates memory for as many entries, or reads as many, before it
// checks that they exist; an encrypted file that is shorter than its nonce ends the process
// (docs/upstream.md, 20). A consumer without the file delivers everything again. store is
// JetStream's folder, key that of encrypted streams; the server must not run.
func checkConsumers(store, key string, log *zap.Logger) error {
	folders, err := filepath.Glob(filepath.Join(store, "*", "streams", "*", consumersDir, "*"))
	if err != nil {
		return fmt.Errorf("list consumers: %w", err)
	}
	var errs []error
	for _, dir := range folders {
		sealed, a, err := openConsumerKey(dir, key)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		files := []string{stateFile}
		if sealed {
			files = append(files, metaFile)
		}
		for _, name := range files {
			f := filepath.Join(dir, name)
			fits, err := fileFits(f, sealed, a)
			if errors.Is(err, fs.ErrNotExist) || fits {
				continue
			}
			if err == nil {
				log.Warn("state of a consumer removed, it is damaged", zap.String("file", f))
				err = os.Remove(f)
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// openConsumerKey reports whether a consumer is encrypted, and returns its key, or nil if the
// key is damaged.
func openConsumerKey(dir, key string) (bool, *asset, error) {
	stream := filepath.Dir(filepath.Dir(dir))
	account := filepath.Base(filepath.Dir(filepath.Dir(stream)))
	a, err := openAsset(filepath.Join(dir, keyFile), key, account, consumerContext(filepath.Base(stream), filepath.Base(dir)))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil, nil
	case errors.Is(err, errAsset):
		return true, nil, nil
	}
	return true, a, err
}

// fileFits reports whether nats-server can read a file of a consumer safely.
func fileFits(path string, sealed bool, a *asset) (bool, error) {
	info, err := os.Stat(path)
	if err != nil || info.Size() > maxState {
		return false, err
	}
	data, err := os.ReadFile(path)
	if err != nil || !sealed {
		return err == nil && countsFit(data), err
	}
	_, err = a.open(data)
	return err == nil, nil //nolint:nilerr // it is removed
}

// countsFit reports whether a state file is long enough for the counts in it. nats-server
// detects other damage by itself.
func countsFit(data []byte) bool {
	if len(data) < 2 || data[0] != stateMagic || data[1] != 1 && data[1] != 2 {
		return true
	}
	// Of an entry: its sequence in the stream, since version 2 that of its delivery, its time.
	numbers := uint64(data[1]) + 1
	rest, ok := data[2:], true
	next := func() uint64 {
		v, n := binary.Uvarint(rest)
		if ok = ok && n > 0; !ok {
			return 0
		}
		rest = rest[n:]
		return v
	}
	for range 4 { // acknowledgement floor and last delivery, by consumer and stream
		next()
	}
	pending := next()
	if pending > uint64(len(rest)) {
		return false
	}
	if pending > 0 {
		next() // the time that the entries count from
	}
	for range numbers * pending {
		if next(); !ok {
			return true
		}
	}
	redelivered := next()
	return redelivered <= uint64(len(rest))
}
