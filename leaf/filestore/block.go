package filestore

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/minio/highwayhash"
)

// A record of a block file: length (4 bytes; the highest bit: it has headers), sequence (8;
// the highest bit: erased, the next: a tombstone), time (8), length of the subject (2),
// subject, with headers their length (4), headers and body, hash (8).
const (
	recordHeader = 22
	recordHash   = 8
	hasHeaders   = 1 << 31
	erased       = 1 << 63
	tombstone    = 1 << 62
	// maxRecord is the longest record that nats-server accepts, in bytes.
	maxRecord = 32 << 20
	// readAhead is how much of a block is read at once, in bytes.
	readAhead = 256 << 10
)

// compressed is the start of a block with S2 compression, whose chunks have checksums that
// nats-server verifies before it parses the records.
var compressed = []byte("cmp\x01")

// damage is the offset of a record that cannot be what was written, and why.
type damage struct {
	offset int64
	reason string
	// confirmed is the length of the record if its hash is right nevertheless, because the hash
	// does not cover the length of the headers.
	confirmed int64
}

// blockReader verifies a block.
type blockReader struct {
	hash *highwayhash.Digest64
	in   *bufio.Reader
	// last is the sequence of the previous record, or 0 if there is none.
	last uint64
	// newest is the highest sequence of a readable record, tombstones included.
	newest uint64
	// skipped is set if the block is compressed.
	skipped bool
	// unreadable counts records whose hash is wrong but that do no other harm: nats-server
	// verifies the hash when it reads the message, and delivers all others.
	unreadable int
}

// newBlockReader returns a reader for a block of a stream, which reads through in. The name of
// the stream and the number of the block are the key of its hashes.
func newBlockReader(stream string, number uint32, in *bufio.Reader) (*blockReader, error) {
	h, err := newHash(fmt.Sprintf("%s-%d", stream, number))
	return &blockReader{hash: h, in: in}, err
}

func newHash(name string) (*highwayhash.Digest64, error) {
	key := sha256.Sum256([]byte(name))
	h, err := highwayhash.NewDigest64(key[:])
	if err != nil {
		return nil, fmt.Errorf("create the hash of %s: %w", name, err)
	}
	return h, nil
}

// hashOf returns nats-server's hash of a file of that name.
func hashOf(name string, data []byte) ([]byte, error) {
	h, err := newHash(name)
	if err != nil {
		return nil, err
	}
	if _, err := h.Write(data); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}

// verify returns the first record of a block of size bytes that would mislead nats-server, or
// nil. Every length must fit, and a sequence must follow the previous one or be confirmed by the hash of
// its record.
func (b *blockReader) verify(in io.Reader, size int64) (*damage, error) {
	b.in.Reset(in)
	if start, _ := b.in.Peek(len(compressed)); bytes.Equal(start, compressed) {
		b.skipped = true
		return nil, nil
	}
	for at := int64(0); at < size; {
		n, bad, err := b.record(size - at)
		if err != nil {
			return nil, err
		}
		if bad != nil {
			bad.offset = at
			return bad, nil
		}
		at += n
	}
	return nil, nil
}

// record reads one record of a block with left more bytes. It returns the length of the record,
// or what is wrong with it.
func (b *blockReader) record(left int64) (int64, *damage, error) {
	if left < recordHeader {
		return 0, &damage{reason: fmt.Sprintf("%d bytes after the last record", left)}, nil
	}
	var head [recordHeader]byte
	if _, err := io.ReadFull(b.in, head[:]); err != nil {
		return 0, nil, err
	}
	length := int64(binary.LittleEndian.Uint32(head[:]))
	extra := int64(0)
	if length&hasHeaders != 0 {
		length, extra = length&^hasHeaders, 4
	}
	subject := int64(binary.LittleEndian.Uint16(head[20:]))
	text := length - recordHeader - subject - extra - recordHash
	if length > left || length > maxRecord || text < 0 {
		return 0, &damage{reason: fmt.Sprintf("length %d with a subject of %d, in %d bytes", length, subject, left)}, nil
	}
	b.hash.Reset()
	if _, err := b.hash.Write(head[4:20]); err != nil {
		return 0, nil, err
	}
	if err := b.hashNext(subject); err != nil {
		return 0, nil, err
	}
	var headers [4]byte
	if _, err := io.ReadFull(b.in, headers[:extra]); err != nil {
		return 0, nil, err
	}
	var want, got [recordHash]byte
	if err := b.hashNext(text); err != nil {
		return 0, nil, err
	}
	if _, err := io.ReadFull(b.in, want[:]); err != nil {
		return 0, nil, err
	}
	right := [recordHash]byte(b.hash.Sum(got[:0])) == want
	seq := binary.LittleEndian.Uint64(head[4:])
	switch n := int64(binary.LittleEndian.Uint32(headers[:])); {
	case n > text && right:
		return 0, &damage{reason: fmt.Sprintf("headers of %d bytes in a message of %d", n, text), confirmed: length}, nil
	case !right && (b.last == 0 || seq != b.last+1):
		return 0, &damage{reason: fmt.Sprintf("sequence %d after %d", seq, b.last)}, nil
	case !right:
		b.unreadable++
	}
	if right {
		b.newest = max(b.newest, seq&^(erased|tombstone))
	}
	if seq&tombstone == 0 {
		b.last = seq &^ erased
	}
	return length, nil, nil
}

// hashNext adds the next n bytes to the hash.
func (b *blockReader) hashNext(n int64) error {
	for n > 0 {
		part, err := b.in.Peek(int(min(n, readAhead)))
		if err != nil {
			return err
		}
		if _, err := b.hash.Write(part); err != nil {
			return err
		}
		if _, err := b.in.Discard(len(part)); err != nil {
			return err
		}
		n -= int64(len(part))
	}
	return nil
}

// invalidateHash changes the hash of a damaged record whose hash is right, so that nats-server
// detects the damage as well.
func (d damage) invalidateHash(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	var sum [recordHash]byte
	at := d.offset + d.confirmed - recordHash
	_, err = f.ReadAt(sum[:], at)
	for i := range sum {
		sum[i] ^= 0xff
	}
	if err == nil {
		_, err = f.WriteAt(sum[:], at)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
