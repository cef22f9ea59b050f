package filestore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// indexUse is what nats-server does with the index of a stream.
type indexUse int

const (
	// unused: it reads all records again and verifies the hash of each.
	unused indexUse = iota
	// used: it trusts the index, and the blocks with it.
	used
	// unknown: the stream is encrypted.
	unknown
)

// indexTail is the length of the end of an index: the hash of the last record, and the hash of
// the index.
const indexTail = 2 * recordHash

// usesIndex returns whether nats-server is going to use the index of the stream: only if the
// last block ends with the record that the index ends with, and the hash of the index is right.
func (m *messages) usesIndex() (indexUse, error) {
	if len(m.blocks) == 0 {
		return unused, nil
	}
	if _, err := os.Stat(m.index()); errors.Is(err, fs.ErrNotExist) {
		return unused, nil
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(m.dir), keyFile)); err == nil {
		return unknown, nil
	}
	known, err := tail(m.index(), indexTail)
	if err != nil {
		return unknown, err
	}
	end := m.blocks[len(m.blocks)-1]
	last, err := tail(m.path(end), recordHash)
	if err != nil {
		return unknown, err
	}
	if bytes.Equal(known[:recordHash], last) {
		return used, nil
	}
	return unused, nil
}

// indexLastSeq returns the last sequence in the index, or 0 if its hash is wrong or there is
// none.
func (m *messages) indexLastSeq() (uint64, error) {
	data, err := os.ReadFile(m.index())
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(data) < recordHash+2 {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	data, sum := data[:len(data)-recordHash], data[len(data)-recordHash:]
	h, err := newHash(m.stream())
	if err != nil {
		return 0, err
	}
	if _, err := h.Write(data); err != nil {
		return 0, err
	}
	if !bytes.Equal(h.Sum(nil), sum) {
		return 0, nil
	}
	// After two bytes: messages, bytes, first sequence, its time, last sequence.
	data = data[2:]
	var last uint64
	for range 5 {
		v, n := binary.Uvarint(data)
		if n <= 0 {
			return 0, nil
		}
		last, data = v, data[n:]
	}
	return last, nil
}

func (m *messages) index() string { return filepath.Join(m.dir, indexFile) }

// removeIndex makes nats-server read all records and verify the hash of each.
func (m *messages) removeIndex() error {
	if err := os.Remove(m.index()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// tail returns the last n bytes of a file, or zeros if it is shorter.
func tail(path string, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, n)
	info, err := f.Stat()
	if err != nil || info.Size() < n {
		return b, err
	}
	_, err = f.ReadAt(b, info.Size()-n)
	return b, err
}
