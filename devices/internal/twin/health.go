package twin

import (
	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// Health is the state of a device and its reason.
type Health struct {
	State, Reason, Message string
}

// Answers reports whether the device responds.
func (h Health) Answers() bool {
	return h.State == v1beta1.StateOnline || h.State == devices.StateDegraded
}

// InitialHealth returns the health of a device before it was contacted, from the problems of
// its definition. It is a pure function.
func InitialHealth(def devices.Definition, problems []devices.Problem) Health {
	if def.Disabled {
		return Health{devices.StateDisabled, devices.ReasonDisabled, "annotation " + devices.AnnotationDisabled}
	}
	for _, p := range problems {
		switch {
		case p.Property != "" || p.Warning():
		case p.Reason == devices.ReasonWaitingForModel:
			return Health{v1beta1.StateUnknown, p.Reason, p.Message}
		default:
			return Health{devices.StateMisconfigured, p.Reason, p.Message}
		}
	}
	return Health{v1beta1.StateUnknown, devices.ReasonConnecting, ""}
}

// afterBatch returns the health of a device after a batch: offline if it did not respond,
// degraded if it reports so itself, if properties could not be read, or if some are left out
// because of a problem. It is a pure function.
func (h Health) afterBatch(b devices.Batch, bad int, problems []devices.Problem) Health {
	switch {
	case !b.Reachable:
		return Health{v1beta1.StateOffline, b.Reason, b.Message}
	case b.Degraded:
		return Health{devices.StateDegraded, b.Reason, b.Message}
	case bad > 0:
		return Health{devices.StateDegraded, devices.ReasonDegraded, ""}
	}
	for _, p := range problems {
		if p.Property != "" && !p.Warning() {
			return Health{devices.StateDegraded, p.Reason, "property " + p.Property + ": " + p.Message}
		}
	}
	return Health{v1beta1.StateOnline, devices.ReasonOnline, ""}
}
