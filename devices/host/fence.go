package host

import (
	"strconv"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// origin identifies a version of a Device object.
type origin struct {
	// Epoch identifies the store that assigned Generation and Version; empty: unknown.
	Epoch      string `json:"epoch,omitempty"`
	Generation int64  `json:"generation,omitempty"`
	// Version is the resourceVersion.
	Version string `json:"version,omitempty"`
}

func originOf(epoch string, d *v1beta1.Device, version string) origin {
	return origin{Epoch: epoch, Generation: d.Generation, Version: version}
}

// older reports whether o is an earlier version of the object than p. Versions of different
// stores cannot be compared: none is older. The generation decides first, since it counts
// changes of the spec; then the resourceVersion, which is a number that grows (KEP-5504).
func (o origin) older(p origin) bool {
	if o.Epoch != "" && p.Epoch != "" && o.Epoch != p.Epoch {
		return false
	}
	if o.Generation > 0 && p.Generation > 0 && o.Generation != p.Generation {
		return o.Generation < p.Generation
	}
	a, errA := strconv.ParseUint(o.Version, 10, 64)
	b, errB := strconv.ParseUint(p.Version, 10, 64)
	return errA == nil && errB == nil && a < b
}

// coveredBy reports whether o need not be saved if p is: the same generation fences equally
// well with an older version.
func (o origin) coveredBy(p origin) bool {
	return o == p || o.Epoch == p.Epoch && o.Generation > 0 && o.Generation == p.Generation
}
