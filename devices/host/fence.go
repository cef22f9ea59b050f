package host

import (
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/streams/order"
)

// origin identifies a version of a Device object.
type origin struct {
	order.Stamp
	// Generation counts the changes of the spec within an epoch.
	Generation int64 `json:"generation,omitempty"`
}

func originOf(epoch string, d *v1beta1.Device, version string) origin {
	return origin{Stamp: order.Stamp{Epoch: epoch, Version: version}, Generation: d.Generation}
}

// older reports whether o is an earlier version of the object than p. Versions of different
// epochs cannot be compared: none is older. An unknown epoch counts as the other's. The generation
// decides first, since it counts changes of the spec; then the resourceVersion.
func (o origin) older(p origin) bool {
	if o.Epoch != "" && p.Epoch != "" && o.Epoch != p.Epoch {
		return false
	}
	if o.Generation > 0 && p.Generation > 0 && o.Generation != p.Generation {
		return o.Generation < p.Generation
	}
	return order.Stamp{Version: p.Version}.NewerThan(order.Stamp{Version: o.Version})
}

// coveredBy reports whether o need not be saved if p is: the same generation fences equally
// well with an older version.
func (o origin) coveredBy(p origin) bool {
	return o == p || o.Epoch == p.Epoch && o.Generation > 0 && o.Generation == p.Generation
}
