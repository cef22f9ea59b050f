package host

import (
	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// health is the state of a device and its reason.
type health struct {
	state, reason, message string
}

// answers reports whether the device responds.
func (h health) answers() bool {
	return h.state == v1beta1.StateOnline || h.state == devices.StateDegraded
}

// initialHealth returns the health of a device before it was contacted, from the problems of
// its definition. It is a pure function.
func initialHealth(def devices.Definition, problems []devices.Problem) health {
	if def.Disabled {
		return health{devices.StateDisabled, devices.ReasonDisabled, "annotation " + devices.AnnotationDisabled}
	}
	for _, p := range problems {
		switch {
		case p.Property != "" || p.Warning():
		case p.Reason == devices.ReasonWaitingForModel:
			return health{v1beta1.StateUnknown, p.Reason, p.Message}
		default:
			return health{devices.StateMisconfigured, p.Reason, p.Message}
		}
	}
	return health{v1beta1.StateUnknown, devices.ReasonConnecting, ""}
}

// afterBatch returns the health of a device after a batch: offline if it did not respond,
// degraded if it reports so itself, if properties could not be read, or if some are left out
// because of a problem. It is a pure function.
func (h health) afterBatch(b devices.Batch, bad int, problems []devices.Problem) health {
	switch {
	case !b.Reachable:
		return health{v1beta1.StateOffline, b.Reason, b.Message}
	case b.Degraded:
		return health{devices.StateDegraded, b.Reason, b.Message}
	case bad > 0:
		return health{devices.StateDegraded, devices.ReasonDegraded, ""}
	}
	for _, p := range problems {
		if p.Property != "" && !p.Warning() {
			return health{devices.StateDegraded, p.Reason, "property " + p.Property + ": " + p.Message}
		}
	}
	return health{v1beta1.StateOnline, devices.ReasonOnline, ""}
}
