// Package order decides which of two versions of a Kubernetes object is the newer one. It is the
// only place that does: bridge, leaf and devices ask it before they replace an object by another.
//
// Versions are comparable within one epoch, the time in which one storage of the API server
// assigned them. A storage that was restored from an older copy, or replaced, assigns versions
// again; it starts a new epoch.
package order

import (
	"fmt"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// Stamp identifies a version of an object. Its JSON is part of the device worker's saved state.
type Stamp struct {
	// Epoch is the name of the epoch that assigned Version; empty: unknown.
	Epoch string `json:"epoch,omitempty"`
	// Version is the resourceVersion, a number that grows (KEP-5504).
	Version string `json:"version,omitempty"`
}

// Compare returns a negative number if s is older than o, 0 if they are the same version, and a
// positive number if s is newer. ok is false if they cannot be compared: their epochs differ, or
// one of the versions is not a number.
func (s Stamp) Compare(o Stamp) (c int, ok bool) {
	if s.Epoch != o.Epoch {
		return 0, false
	}
	c, err := resourceversion.CompareResourceVersion(s.Version, o.Version)
	return c, err == nil
}

// NewerThan reports whether s is newer than o. It returns false if they cannot be compared.
func (s Stamp) NewerThan(o Stamp) bool {
	c, ok := s.Compare(o)
	return ok && c > 0
}

// EpochName returns the name of an epoch. number counts the epochs of a hub, storage identifies
// the API server's storage.
func EpochName(number uint64, storage string) string { return fmt.Sprintf("%d-%s", number, storage) }

// EpochNumber returns the number in an epoch's name, 0 if there is none.
func EpochNumber(name string) uint64 {
	digits, _, _ := strings.Cut(name, "-")
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return 0
	}
	return n
}
