package storage

import "github.com/petiole-io/petiole/streams/order"

// record is what the hub remembers about the API server's storage. With it a bridge
// detects that the storage was restored from an older copy or replaced. Resource versions are
// comparable within one epoch only. It also holds the terms of the bridges.
type record struct {
	// Number counts the epochs.
	Number uint64 `json:"number"`
	// UID is the UID of the namespace kube-system.
	UID string `json:"uid"`
	// Version is the storage's resource version at the last write of the marker.
	Version string `json:"version"`
	// Marker is the highest generation of the marker that was written to the API.
	Marker uint64 `json:"marker"`
	// Term is the term of the bridge that wrote the record, Holder the identity of that
	// bridge.
	Term   uint64 `json:"term"`
	Holder string `json:"holder"`
}

// name returns the epoch in the form that messages carry.
func (r record) name() string { return order.EpochName(r.Number, r.UID) }

// passed reports whether a version is older than the record.
func (r record) passed(version string) bool {
	return order.Stamp{Version: r.Version}.NewerThan(order.Stamp{Version: version})
}

// state is the result of a consistent read of the API server's storage.
type state struct {
	// UID is the UID of the namespace kube-system.
	UID string
	// Version is the marker's resource version, empty if there is no marker.
	Version string
	// Marker is the generation of the marker, Number the epoch in which it was written; both
	// are 0 if there is no marker.
	Marker, Number uint64
}

// The reasons for a new epoch.
const (
	reasonFirst    = "NoRecord"
	reasonReplaced = "StorageReplaced"
	reasonVersion  = "VersionMovedBack"
	reasonMarker   = "MarkerMovedBack"
	reasonObject   = "ObjectMovedBack"
)

// next returns the record that follows from the observed state, and the reason if that is a
// new epoch. known is the highest epoch number in any message; it counts if the record was
// lost. It is a pure function.
func (r record) next(now state, known uint64) (record, string) {
	reason := ""
	switch {
	case r.Number == 0:
		reason = reasonFirst
	case r.UID != now.UID:
		reason = reasonReplaced
	case r.passed(now.Version):
		reason = reasonVersion
	case now.Marker < r.Marker:
		reason = reasonMarker
	}
	if reason != "" {
		return r.newEpoch(now, known), reason
	}
	r.Version, r.Marker = now.Version, now.Marker
	return r, ""
}

// newEpoch returns the record of a new epoch.
func (r record) newEpoch(now state, known uint64) record {
	r.Number = max(r.Number, now.Number, known) + 1
	r.UID, r.Version, r.Marker = now.UID, now.Version, now.Marker
	return r
}
