package devices

import "github.com/petiole-io/petiole/devices/api/v1beta1"

// The states of a device besides online, offline and unknown, which are KubeEdge's.
const (
	// StateDegraded: the device responds, but not all of its properties can be read.
	StateDegraded = "degraded"
	// StateDisabled: an annotation disables the device.
	StateDisabled = "disabled"
	// StateMisconfigured: the definition is invalid, so that the device is not operated.
	StateMisconfigured = "misconfigured"
)

// states are all states of a device, the labels of Stats. Unknown is that of a device that
// was not contacted yet, or waits for its model.
var states = []string{
	v1beta1.StateOnline, StateDegraded, v1beta1.StateOffline, StateDisabled, StateMisconfigured, v1beta1.StateUnknown,
}

// health is the state of a device and its reason.
type health struct {
	state, reason, message string
}

// answers reports whether the device responds.
func (h health) answers() bool {
	return h.state == v1beta1.StateOnline || h.state == StateDegraded
}

// initialHealth returns the health of a device before it was contacted, from the problems of
// its definition. It is a pure function.
func initialHealth(def Definition, problems []Problem) health {
	if def.Disabled {
		return health{StateDisabled, ReasonDisabled, "annotation " + AnnotationDisabled}
	}
	for _, p := range problems {
		switch {
		case p.Property != "" || p.warning():
		case p.Reason == ReasonWaitingForModel:
			return health{v1beta1.StateUnknown, p.Reason, p.Message}
		default:
			return health{StateMisconfigured, p.Reason, p.Message}
		}
	}
	return health{v1beta1.StateUnknown, ReasonConnecting, ""}
}

// afterBatch returns the health of a device after a batch: offline if it did not respond,
// degraded if it reports so itself, if properties could not be read, or if some are left out
// because of a problem. It is a pure function.
func (h health) afterBatch(b Batch, bad int, problems []Problem) health {
	switch {
	case !b.Reachable:
		return health{v1beta1.StateOffline, b.Reason, b.Message}
	case b.Degraded:
		return health{StateDegraded, b.Reason, b.Message}
	case bad > 0:
		return health{StateDegraded, ReasonDegraded, ""}
	}
	for _, p := range problems {
		if p.Property != "" && !p.warning() {
			return health{StateDegraded, p.Reason, "property " + p.Property + ": " + p.Message}
		}
	}
	return health{v1beta1.StateOnline, ReasonOnline, ""}
}
