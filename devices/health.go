package devices

import "github.com/petiole-io/petiole/devices/api/v1beta1"

// The states of a device beside online, offline and unknown, which are KubeEdge's.
const (
	// StateDegraded: the device answers, but not all of its properties can be read.
	StateDegraded = "degraded"
	// StateDisabled: the device is left alone because its annotation says so.
	StateDisabled = "disabled"
	// StateMisconfigured: the definition is wrong, so that the device is not tried.
	StateMisconfigured = "misconfigured"
)

// states are all states of a device, the labels of Stats. Unknown is a device that
// has not been tried yet, or waits for its model.
var states = []string{
	v1beta1.StateOnline, StateDegraded, v1beta1.StateOffline, StateDisabled, StateMisconfigured, v1beta1.StateUnknown,
}

// health is the state of a device with why it is so.
type health struct {
	state, reason, message string
}

// answers tells the states of a device that takes part.
func (h health) answers() bool {
	return h.state == v1beta1.StateOnline || h.state == StateDegraded
}

// judge is the health of a device before it was tried, from the problems of its
// definition. It is pure.
func judge(def Definition, problems []Problem) health {
	if def.Disabled {
		return health{StateDisabled, ReasonDisabled, "annotation " + AnnotationDisabled}
	}
	for _, p := range problems {
		switch {
		case p.Property != "" || p.advice():
		case p.Reason == ReasonWaitingForModel:
			return health{v1beta1.StateUnknown, p.Reason, p.Message}
		default:
			return health{StateMisconfigured, p.Reason, p.Message}
		}
	}
	return health{v1beta1.StateUnknown, ReasonConnecting, ""}
}

// after is the health of a device after a batch: offline when it did not answer,
// degraded when it says so itself, when properties are read badly, or when some are
// left out because of a problem. It is pure.
func (h health) after(b Batch, bad int, problems []Problem) health {
	switch {
	case !b.Reachable:
		return health{v1beta1.StateOffline, b.Reason, b.Message}
	case b.Degraded:
		return health{StateDegraded, b.Reason, b.Message}
	case bad > 0:
		return health{StateDegraded, ReasonDegraded, ""}
	}
	for _, p := range problems {
		if p.Property != "" && !p.advice() {
			return health{StateDegraded, p.Reason, "property " + p.Property + ": " + p.Message}
		}
	}
	return health{v1beta1.StateOnline, ReasonOnline, ""}
}
