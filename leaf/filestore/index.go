package filestore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
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
)

// minIndex is the length of the shortest index: two bytes of version, the hash of the last
// record, and the hash of the index.
const minIndex = 2 + 2*recordHash

// readIndex returns the index of the stream without its hash, decrypted, or nil if there is none
// that nats-server would use.
func (m *messages) readIndex() ([]byte, error) {
	data, err := os.ReadFile(m.index())
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(data) < minIndex {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	data, sum := data[:len(data)-recordHash], data[len(data)-recordHash:]
	want, err := hashOf(m.stream(), data)
	if err != nil || !bytes.Equal(want, sum) {
		return nil, err
	}
	if !m.encrypted {
		return data, nil
	}
	plain, err := m.asset.open(data)
	if err != nil || len(plain) < minIndex-recordHash {
		return nil, nil //nolint:nilerr // damaged, or of another key: nats-server reads the records
	}
	return plain, nil
}

// usesIndex returns whether nats-server is going to use an index of the stream: only if the last
// block ends with the record that the index ends with.
func (m *messages) usesIndex(index []byte) (indexUse, error) {
	if len(m.blocks) == 0 || index == nil {
		return unused, nil
	}
	last, err := m.lastHash(m.blocks[len(m.blocks)-1])
	if err != nil {
		return unused, err
	}
	if bytes.Equal(index[len(index)-recordHash:], last) {
		return used, nil
	}
	return unused, nil
}

// lastHash returns the last bytes of a block, where the hash of its last record is, or nil if it
// is too short or cannot be decrypted.
func (m *messages) lastHash(b block) ([]byte, error) {
	f, err := os.Open(m.path(b))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if b.size < recordHash {
		return nil, nil
	}
	in, err := m.decryptFrom(b, f, b.size-recordHash)
	if errors.Is(err, errAsset) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	sum := make([]byte, recordHash)
	_, err = io.ReadFull(in, sum)
	return sum, err
}

// lastSeqOf returns the last sequence in an index, or 0 if there is no index.
func lastSeqOf(index []byte) uint64 {
	if len(index) < minIndex-recordHash {
		return 0
	}
	// After two bytes: messages, bytes, first sequence, its time, last sequence.
	index = index[2:]
	var last uint64
	for range 5 {
		v, n := binary.Uvarint(index)
		if n <= 0 {
			return 0
		}
		last, index = v, index[n:]
	}
	return last
}

func (m *messages) index() string { return filepath.Join(m.dir, indexFile) }

// removeIndex makes nats-server read all records and verify the hash of each.
func (m *messages) removeIndex() error {
	if err := os.Remove(m.index()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
