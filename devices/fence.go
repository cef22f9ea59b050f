package devices

import (
	"strconv"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// origin says which state of a Device object something follows from.
type origin struct {
	// Epoch names the store that counts; empty: not known.
	Epoch      string `json:"epoch,omitempty"`
	Generation int64  `json:"generation,omitempty"`
	// Version is the resourceVersion.
	Version string `json:"version,omitempty"`
}

func originOf(epoch string, d *v1beta1.Device, version string) origin {
	return origin{Epoch: epoch, Generation: d.Generation, Version: version}
}

// older tells whether o is of an earlier state of the same object than p. States of
// two stores have no order: the newer store's is taken. The generation decides first,
// because it counts what concerns the device; then the resourceVersion, which is a
// number that grows (KEP-5504).
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

// recorded tells whether an origin need not be written down again after p: the same
// generation fences as well with an older version.
func (o origin) recorded(p origin) bool {
	return o == p || o.Epoch == p.Epoch && o.Generation > 0 && o.Generation == p.Generation
}
