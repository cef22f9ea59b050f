package nodeapi

import (
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/petiole-io/petiole/streams"
)

// desired is the last message of one desired subject. An object that moves from node
// to node has one for each.
type desired struct {
	// gone marks a tombstone, goneAt is when it was taken over, s since 1970.
	gone                bool
	goneAt              int64
	uid, version, epoch string
	// arrived orders messages of different epochs.
	arrived uint64
	body    []byte
}

// yields decides whether m, on the same subject, is newer than d. Within one epoch
// the version decides; a different epoch, or a version that does not compare, is
// newer when it comes later.
func (d desired) yields(m streams.Message) bool {
	if d.epoch != m.Epoch {
		return true
	}
	c, err := resourceversion.CompareResourceVersion(m.Version, d.version)
	foreign := d.uid != "" && m.UID != "" && d.uid != m.UID
	switch {
	case m.Op == streams.OpDelete && foreign && !d.gone:
		// The tombstone of a successor that never came here ends what is here, too; that
		// of a predecessor does not.
		return err == nil && c > 0
	case err != nil, c > 0:
		return true
	case c < 0:
		return false
	}
	// One version is either there or not: it goes when it is no longer wanted at the
	// site, and may come back unchanged when it is wanted again.
	return d.gone != (m.Op == streams.OpDelete)
}

// newer says which of two live messages about one name is the present one.
func (d desired) newer(than desired) bool {
	if d.epoch == than.epoch {
		if c, err := resourceversion.CompareResourceVersion(d.version, than.version); err == nil && c != 0 {
			return c > 0
		}
	}
	return d.arrived > than.arrived
}
