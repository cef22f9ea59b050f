package devices

import (
	"time"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// Definition is a device as its driver sees it: the Device and its DeviceModel
// merged, defaults filled in.
type Definition struct {
	Device   Ref
	Protocol string
	// Config are the protocol's settings: the model's, overlaid by the device's,
	// without those that this package reads itself.
	Config Settings
	Points []Point
	// Methods are the named groups of properties that commands may set.
	Methods []v1beta1.DeviceMethod

	// What follows is no part of what tells one definition from another: a change of
	// it alone does not open the session again.

	// Disabled has the device left alone.
	Disabled bool `json:"-"`
	// Report says how the device's state is reported.
	Report StateReporting `json:"-"`
	// Object and Model are what the definition was merged from. They must not be
	// changed.
	Object *v1beta1.Device      `json:"-"`
	Model  *v1beta1.DeviceModel `json:"-"`
}

// Point is one property of a device that is read, and perhaps written.
type Point struct {
	Name     string
	Type     v1beta1.PropertyType
	Writable bool
	// Minimum and Maximum bound what may be written; empty: no bound.
	Minimum, Maximum string
	Unit             string
	// Visitor are the protocol's settings for the point: the model's, overlaid by
	// the device's, without those that this package reads itself.
	Visitor Settings
	// Cycle is the period of reading: collectCycle, default 1 s.
	Cycle time.Duration
	// Report puts the point's reported value into the DeviceStatus: reportToCloud.
	Report bool
	// Push says where samples go besides, nil: nowhere; ReportCycle is its period,
	// default 1 s.
	Push        *v1beta1.PushMethod
	ReportCycle time.Duration
	// Reporting says when a reported value is news.
	Reporting Reporting `json:"-"`
	// Drift is the policy of desired values that have none of their own.
	Drift DriftPolicy `json:"-"`
}

// Desired is the value that is wanted of a property.
type Desired struct {
	Property string
	Value    string
	// Mark changes whenever the desired value or its metadata changes, and only then.
	Mark string
	// Policy is what follows from drift, and Expires when the value need not be
	// written any more; zero: never.
	Policy  DriftPolicy
	Expires time.Time
	// Invalid says what is wrong with the metadata; the value is then rejected.
	Invalid string
}

// Problem is something wrong with a device's definition. Property is empty when it
// concerns the whole device, which then cannot be operated; otherwise only that
// property is left out.
type Problem struct {
	Property string `json:"property,omitempty"`
	Reason   string `json:"reason"`
	Message  string `json:"message"`
}

// advice tells a problem that leaves nothing out.
func (p Problem) advice() bool {
	switch p.Reason {
	case ReasonSuspiciousPeriod, ReasonInvalidReporting, ReasonStream, ReasonStale:
		return true
	}
	return false
}

// The reasons of problems and of device states.
const (
	ReasonWaitingForModel  = "WaitingForModel"
	ReasonUnknownProtocol  = "UnknownProtocol"
	ReasonInvalidProtocol  = "InvalidProtocolConfig"
	ReasonInvalidProperty  = "InvalidProperty"
	ReasonInvalidReporting = "InvalidReportingSettings"
	ReasonNotInModel       = "PropertyNotInModel"
	ReasonStream           = "StreamIsNotRead"
	ReasonSuspiciousPeriod = "SuspiciousCollectCycle"
	ReasonConnecting       = "Connecting"
	ReasonOnline           = "Online"
	ReasonOffline          = "Offline"
	ReasonDegraded         = "PropertiesNotReadable"
	ReasonDisabled         = "Disabled"
	ReasonSessionEnded     = "SessionEnded"
	ReasonStateStore       = "StateStoreUnavailable"
	// ReasonStale tells that the object is older than one that was seen before: it is
	// read from but not written to.
	ReasonStale = "OlderThanRecorded"
)
