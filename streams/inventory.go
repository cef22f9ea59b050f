package streams

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/nats-io/nats.go"
)

// InventoryBuckets is the number of buckets into which an Inventory divides the subjects of
// a site, so that a difference is found without listing every object.
const InventoryBuckets = 256

// InventoryEntry is what the bridge and a site must agree on about one desired object: the
// subject and the headers of its message, which are the same at both ends. Tombstones have
// no entry.
type InventoryEntry struct {
	Subject string `json:"subject"`
	UID     string `json:"uid,omitempty"`
	Version string `json:"version,omitempty"`
	Epoch   string `json:"epoch,omitempty"`
	Hash    string `json:"hash,omitempty"`
}

// EntryOf returns the entry of a stored message. It returns false for a tombstone and for
// a part of a large object, which no inventory contains.
func EntryOf(subject string, h nats.Header) (InventoryEntry, bool) {
	if Op(h.Get(HeaderOp)) == OpDelete || IsPart(subject) {
		return InventoryEntry{}, false
	}
	return InventoryEntry{
		Subject: subject, UID: h.Get(HeaderUID), Version: h.Get(HeaderVersion), Epoch: h.Get(HeaderEpoch), Hash: h.Get(HeaderHash),
	}, true
}

// Bucket returns the bucket of the entry's subject, 0 to InventoryBuckets-1.
func (e InventoryEntry) Bucket() int { return InventoryBucket(e.Subject) }

// InventoryBucket returns the bucket of a subject.
func InventoryBucket(subject string) int {
	sum := sha256.Sum256([]byte(subject))
	return int(sum[0])
}

func (e InventoryEntry) sum() uint64 {
	h := sha256.New()
	for _, s := range []string{e.Subject, e.UID, e.Version, e.Epoch, e.Hash} {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// Inventory is a digest of a set of entries. It does not depend on their order and can be
// updated entry by entry. It finds accidents, not forgeries: a site that lies about its
// inventory harms only itself. The zero value is the empty set. An Inventory is not safe
// for concurrent use.
type Inventory struct {
	count   int64
	buckets [InventoryBuckets]uint64
}

// Add adds an entry. The set must not contain an entry of the same subject.
func (m *Inventory) Add(e InventoryEntry) {
	m.count++
	m.buckets[e.Bucket()] += e.sum()
}

// Remove removes an entry that was added.
func (m *Inventory) Remove(e InventoryEntry) {
	m.count--
	m.buckets[e.Bucket()] -= e.sum()
}

// Count returns the number of entries.
func (m *Inventory) Count() int64 { return m.count }

// Digest returns 32 hexadecimal digits that are equal for equal sets.
func (m *Inventory) Digest() string {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(m.count)))
	h.Write(m.Buckets())
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Buckets returns the sums of the buckets, 8 bytes each.
func (m *Inventory) Buckets() []byte {
	out := make([]byte, 0, 8*InventoryBuckets)
	for _, b := range m.buckets {
		out = binary.BigEndian.AppendUint64(out, b)
	}
	return out
}

// Differing returns the buckets that differ from those of another inventory, which other
// holds as its Buckets returned them.
func (m *Inventory) Differing(other []byte) ([]int, error) {
	if len(other) != 8*InventoryBuckets {
		return nil, fmt.Errorf("the buckets of an inventory have %d bytes, want %d", len(other), 8*InventoryBuckets)
	}
	var out []int
	for i, b := range m.buckets {
		if binary.BigEndian.Uint64(other[8*i:]) != b {
			out = append(out, i)
		}
	}
	return out, nil
}

// RequestInventory asks the bridge to compare what a site has stored with what it
// published: an InventoryQuery, answered by an InventoryAnswer. The site asks when it has
// caught up at the start of a session, every InventoryInterval, and when the bridge tells
// it to (ControlVerify). Differences are repaired through DESIRED. On the wire its name is
// "manifest".
const RequestInventory = "manifest"

// InventoryQuery describes what a site has on disk. The first query of a comparison
// carries Digest; the following ones carry what the answers asked for.
type InventoryQuery struct {
	// HubPosition is the position of the last message that the site has stored.
	HubPosition
	Count  int64  `json:"count"`
	Digest string `json:"digest"`
	// Buckets holds Inventory.Buckets, in answer to InventorySendBuckets.
	Buckets []byte `json:"buckets,omitempty"`
	// Entries holds all entries of the buckets listed in Of, in answer to
	// InventorySendEntries. A site sends as many whole buckets as fit into one message.
	Of      []int            `json:"of,omitempty"`
	Entries []InventoryEntry `json:"entries,omitempty"`
}

// InventoryState is the outcome of a comparison.
type InventoryState string

// The outcomes.
const (
	// InventoryEqual: the site has what it should have.
	InventoryEqual InventoryState = "equal"
	// InventoryBehind: messages are on their way to the site, or the bridge is not ready;
	// the site asks again when it has caught up.
	InventoryBehind InventoryState = "behind"
	// InventorySendBuckets and InventorySendEntries: the sets differ; the site asks again
	// with its buckets, or with the entries of the buckets in the answer.
	InventorySendBuckets InventoryState = "send-buckets"
	InventorySendEntries InventoryState = "send-entries"
	// InventoryRepairing: the bridge has published again what differs; the site asks again
	// when it has caught up.
	InventoryRepairing InventoryState = "repairing"
)

// InventoryAnswer is the bridge's answer to an InventoryQuery.
type InventoryAnswer struct {
	State InventoryState `json:"state"`
	// Buckets lists the buckets that differ, with InventorySendEntries.
	Buckets []int `json:"buckets,omitempty"`
	// Published counts the objects, tombstones included, that were published again, with
	// InventoryRepairing.
	Published int `json:"published,omitempty"`
	// Error is the reason why a query was rejected, for example because it is malformed.
	Error string `json:"error,omitempty"`
}
