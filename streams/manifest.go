package streams

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/nats-io/nats.go"
)

// ManifestBuckets is into how many buckets a manifest divides the subjects of a site,
// so that a difference is found without naming every object.
const ManifestBuckets = 256

// ManifestEntry is what bridge and site must agree upon about one object that is
// desired at a site: the subject and the headers of its message, which are the same at
// both ends. A tombstone is no entry: what is not wanted is not there.
type ManifestEntry struct {
	Subject string `json:"subject"`
	UID     string `json:"uid,omitempty"`
	Version string `json:"version,omitempty"`
	Epoch   string `json:"epoch,omitempty"`
	Hash    string `json:"hash,omitempty"`
}

// EntryOf reads an entry from a stored message. It returns false for a tombstone and
// for a part of a large object, which are in no manifest.
func EntryOf(subject string, h nats.Header) (ManifestEntry, bool) {
	if Op(h.Get(HeaderOp)) == OpDelete || IsPart(subject) {
		return ManifestEntry{}, false
	}
	return ManifestEntry{
		Subject: subject, UID: h.Get(HeaderUID), Version: h.Get(HeaderVersion), Epoch: h.Get(HeaderEpoch), Hash: h.Get(HeaderHash),
	}, true
}

// Bucket is the bucket of the entry's subject, 0 to ManifestBuckets-1.
func (e ManifestEntry) Bucket() int { return ManifestBucket(e.Subject) }

// ManifestBucket is the bucket of a subject.
func ManifestBucket(subject string) int {
	sum := sha256.Sum256([]byte(subject))
	return int(sum[0])
}

func (e ManifestEntry) sum() uint64 {
	h := sha256.New()
	for _, s := range []string{e.Subject, e.UID, e.Version, e.Epoch, e.Hash} {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// Manifest is a digest of a set of entries that does not depend on their order and can
// be kept up to date entry by entry. It finds accidents, not forgeries: a site that
// lies about itself harms itself. The zero value is the empty set. It is not safe for
// concurrent use.
type Manifest struct {
	count   int64
	buckets [ManifestBuckets]uint64
}

// Add takes an entry in. Each subject must be in at most once.
func (m *Manifest) Add(e ManifestEntry) {
	m.count++
	m.buckets[e.Bucket()] += e.sum()
}

// Remove takes an entry out that was added.
func (m *Manifest) Remove(e ManifestEntry) {
	m.count--
	m.buckets[e.Bucket()] -= e.sum()
}

// Count is the number of entries.
func (m *Manifest) Count() int64 { return m.count }

// Digest is equal for equal sets: 32 hexadecimal digits.
func (m *Manifest) Digest() string {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(m.count)))
	h.Write(m.Buckets())
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Buckets are the sums of the buckets, 8 bytes for each.
func (m *Manifest) Buckets() []byte {
	out := make([]byte, 0, 8*ManifestBuckets)
	for _, b := range m.buckets {
		out = binary.BigEndian.AppendUint64(out, b)
	}
	return out
}

// Differing are the buckets in which the other manifest, given by its Buckets, differs.
func (m *Manifest) Differing(other []byte) ([]int, error) {
	if len(other) != 8*ManifestBuckets {
		return nil, fmt.Errorf("buckets of a manifest have %d bytes, want %d", len(other), 8*ManifestBuckets)
	}
	var out []int
	for i, b := range m.buckets {
		if binary.BigEndian.Uint64(other[8*i:]) != b {
			out = append(out, i)
		}
	}
	return out, nil
}

// RequestManifest asks the bridge to compare what a site has stored with what it
// published: a ManifestQuery, answered by a ManifestAnswer. The site asks when it has
// caught up after a start of a session, at ManifestInterval, and when it is told to
// (ControlVerify). What differs is repaired through DESIRED.
const RequestManifest = "manifest"

// ManifestQuery is what a site has on disk. The first query of a check carries Digest;
// the following ones what the answers asked for.
type ManifestQuery struct {
	// Identity is that of the hub's stream DESIRED, Position the sequence there of the
	// last message that the site has stored.
	Identity string `json:"identity"`
	Position uint64 `json:"position"`
	Count    int64  `json:"count"`
	Digest   string `json:"digest"`
	// Buckets is Manifest.Buckets, in answer to ManifestSendBuckets.
	Buckets []byte `json:"buckets,omitempty"`
	// Entries are all entries of the buckets Of, in answer to ManifestSendEntries. A site
	// sends as many whole buckets as fit into one message.
	Of      []int           `json:"of,omitempty"`
	Entries []ManifestEntry `json:"entries,omitempty"`
}

// ManifestState is the outcome of a comparison.
type ManifestState string

// The outcomes.
const (
	// ManifestEqual: the site has what it should have.
	ManifestEqual ManifestState = "equal"
	// ManifestBehind: more is on its way to the site, or the bridge is not ready; the
	// site asks again when it has caught up.
	ManifestBehind ManifestState = "behind"
	// ManifestSendBuckets and ManifestSendEntries: the sets differ; the site asks again
	// with its buckets, or with the entries of the answer's buckets.
	ManifestSendBuckets ManifestState = "send-buckets"
	ManifestSendEntries ManifestState = "send-entries"
	// ManifestRepairing: what differs was published again; the site asks again when it
	// has caught up.
	ManifestRepairing ManifestState = "repairing"
)

// ManifestAnswer is the bridge's.
type ManifestAnswer struct {
	State ManifestState `json:"state"`
	// Buckets are those that differ, with ManifestSendEntries.
	Buckets []int `json:"buckets,omitempty"`
	// Published counts the objects, tombstones included, that were published again, with
	// ManifestRepairing.
	Published int `json:"published,omitempty"`
	// Error says why a query was refused, such as a malformed one.
	Error string `json:"error,omitempty"`
}
