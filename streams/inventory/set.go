package inventory

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/streams"
)

// NumBuckets is the number of buckets into which a Set divides the subjects of
// a site, so that a difference is found without listing every object.
const NumBuckets = 256

// Entry is what the bridge and a site must agree on about one desired object: the
// subject and the headers of its message, which are the same at both ends. Tombstones have
// no entry.
type Entry struct {
	Subject string `json:"subject"`
	UID     string `json:"uid,omitempty"`
	Version string `json:"version,omitempty"`
	Epoch   string `json:"epoch,omitempty"`
	Hash    string `json:"hash,omitempty"`
}

// EntryOf returns the entry of a stored message. It returns false for a tombstone and for
// a part of a large object, which no inventory contains.
func EntryOf(subject string, h nats.Header) (Entry, bool) {
	if streams.Op(h.Get(streams.HeaderOp)) == streams.OpDelete || streams.IsPart(subject) {
		return Entry{}, false
	}
	return Entry{
		Subject: subject, UID: h.Get(streams.HeaderUID), Version: h.Get(streams.HeaderVersion), Epoch: h.Get(streams.HeaderEpoch), Hash: h.Get(streams.HeaderHash),
	}, true
}

// Bucket returns the bucket of the entry's subject, 0 to NumBuckets-1.
func (e Entry) Bucket() int { return BucketOf(e.Subject) }

// BucketOf returns the bucket of a subject.
func BucketOf(subject string) int {
	sum := sha256.Sum256([]byte(subject))
	return int(sum[0])
}

func (e Entry) sum() uint64 {
	h := sha256.New()
	for _, s := range []string{e.Subject, e.UID, e.Version, e.Epoch, e.Hash} {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// Set is a digest of a set of entries. It does not depend on their order and can be
// updated entry by entry. It finds accidents, not forgeries: a site that lies about its
// inventory harms only itself. The zero value is the empty set. A Set is not safe
// for concurrent use.
type Set struct {
	count   int64
	buckets [NumBuckets]uint64
}

// Add adds an entry. The set must not contain an entry of the same subject.
func (s *Set) Add(e Entry) {
	s.count++
	s.buckets[e.Bucket()] += e.sum()
}

// Remove removes an entry that was added.
func (s *Set) Remove(e Entry) {
	s.count--
	s.buckets[e.Bucket()] -= e.sum()
}

// Count returns the number of entries.
func (s *Set) Count() int64 { return s.count }

// Digest returns 32 hexadecimal digits that are equal for equal sets.
func (s *Set) Digest() string {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(s.count)))
	h.Write(s.Buckets())
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Buckets returns the sums of the buckets, 8 bytes each.
func (s *Set) Buckets() []byte {
	out := make([]byte, 0, 8*NumBuckets)
	for _, b := range s.buckets {
		out = binary.BigEndian.AppendUint64(out, b)
	}
	return out
}

// Differing returns the buckets that differ from those of another inventory, which other
// holds as its Buckets returned them.
func (s *Set) Differing(other []byte) ([]int, error) {
	if len(other) != 8*NumBuckets {
		return nil, fmt.Errorf("the buckets of an inventory have %d bytes, want %d", len(other), 8*NumBuckets)
	}
	var out []int
	for i, b := range s.buckets {
		if binary.BigEndian.Uint64(other[8*i:]) != b {
			out = append(out, i)
		}
	}
	return out, nil
}
