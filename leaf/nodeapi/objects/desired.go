package objects

import (
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/order"
)

// Desired is the last message of one subject of SITE_DESIRED. An object that moves between
// nodes has one for each node.
type Desired struct {
	// deleted marks a tombstone. deletedAt is when it was applied, in seconds since 1970.
	deleted   bool
	deletedAt int64
	// UID and Stamp are those of the object in the cloud.
	UID string
	order.Stamp
	// Arrival orders messages of different epochs. It is 0 for no message.
	Arrival uint64
	// Body is the object. It must not be modified.
	Body []byte
}

// supersededBy reports whether m, a message on the same subject, is newer than d. Within one
// epoch the version decides. If the epochs differ or the versions are not comparable, the
// message that arrives later is newer.
func (d Desired) supersededBy(m streams.Message) bool {
	if d.Epoch != m.Epoch {
		return true
	}
	c, ok := m.Stamp().Compare(d.Stamp)
	otherObject := d.UID != "" && m.UID != "" && d.UID != m.UID
	switch {
	case m.Op == streams.OpDelete && otherObject && !d.deleted:
		// The tombstone of a later object of this name, which never arrived here, also
		// deletes the present object; that of an earlier one does not.
		return ok && c > 0
	case !ok, c > 0:
		return true
	case c < 0:
		return false
	}
	// The versions are equal: an object is deleted at the site when it is no longer needed
	// there, and may come back unchanged when it is needed again. An EndpointSlice at a site also
	// changes with the nodes of the site.
	return d.deleted != (m.Op == streams.OpDelete) || !d.deleted && m.Group == EndpointSlices.Group && m.Resource == EndpointSlices.Resource
}

// newerThan reports which of two messages about the same name is the current one.
func (d Desired) newerThan(other Desired) bool {
	if c, ok := d.Compare(other.Stamp); ok && c != 0 {
		return c > 0
	}
	return d.Arrival > other.Arrival
}
