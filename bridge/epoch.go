package bridge

import (
	"fmt"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// epochRecord is what the hub remembers of the API server's storage, so that a bridge
// finds out that the storage was restored from an older copy, or replaced: resource
// versions are comparable within one epoch only. It also holds the terms of the bridges.
type epochRecord struct {
	// Number counts the epochs.
	Number uint64 `json:"number"`
	// UID is that of the namespace kube-system.
	UID string `json:"uid"`
	// Version is that of the storage when the marker was last written.
	Version string `json:"version"`
	// Marker is the highest generation that was written to the marker in the API.
	Marker uint64 `json:"marker"`
	// Term is that of the bridge that wrote the record, Holder its identity.
	Term   uint64 `json:"term"`
	Holder string `json:"holder"`
}

// name is the epoch as messages carry it.
func (r epochRecord) name() string { return fmt.Sprintf("%d-%s", r.Number, r.UID) }

// epochNumber is the number of an epoch's name, 0 when it has none.
func epochNumber(name string) uint64 {
	digits, _, _ := strings.Cut(name, "-")
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// storeState is what a consistent read of the API server says of its storage.
type storeState struct {
	// UID is that of the namespace kube-system.
	UID string
	// Version is the marker's resource version, empty when there is no marker.
	Version string
	// Marker is the generation that the marker carries, Number the epoch that it was
	// written in; both 0 when there is no marker.
	Marker, Number uint64
}

// The reasons of a new epoch.
const (
	epochFirst    = "NoRecord"
	epochReplaced = "StorageReplaced"
	epochVersion  = "VersionMovedBack"
	epochMarker   = "MarkerMovedBack"
	epochObject   = "ObjectMovedBack"
)

// next is the record that follows from what is seen, and why it begins a new epoch,
// empty when it does not. known is the highest number that any message or marker
// carries: it counts when the record is lost. It is a pure function.
func (r epochRecord) next(now storeState, known uint64) (epochRecord, string) {
	reason := ""
	switch {
	case r.Number == 0:
		reason = epochFirst
	case r.UID != now.UID:
		reason = epochReplaced
	case olderVersion(now.Version, r.Version):
		reason = epochVersion
	case now.Marker < r.Marker:
		reason = epochMarker
	}
	if reason != "" {
		return r.newEpoch(now, known), reason
	}
	r.Version, r.Marker = now.Version, now.Marker
	return r, ""
}

// renewed is the record of a new epoch.
func (r epochRecord) newEpoch(now storeState, known uint64) epochRecord {
	r.Number = max(r.Number, now.Number, known) + 1
	r.UID, r.Version, r.Marker = now.UID, now.Version, now.Marker
	return r
}

// olderVersion says whether a is an older resource version than b. Versions that do not
// compare are not older.
func olderVersion(a, b string) bool {
	if a == "" || b == "" {
		return false
	}
	n, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && n < 0
}
