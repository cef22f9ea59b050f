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
	// Config are the protocol's settings: the model's, overlaid by the device's.
	Config Settings
	Points []Point
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
	// the device's.
	Visitor Settings
	// Cycle is the period of reading.
	Cycle time.Duration
	// Report puts the point's reported value into the DeviceStatus.
	Report bool
}

// Desired is the value that is wanted of a property.
type Desired struct {
	Property string
	Value    string
	// Mark changes whenever the desired value or its metadata changes, and only then.
	Mark string
}

// Problem is something wrong with a device's definition. Property is empty when it
// concerns the whole device, which then cannot be operated; otherwise only that
// property is left out.
type Problem struct {
	Property string `json:"property,omitempty"`
	Reason   string `json:"reason"`
	Message  string `json:"message"`
}

// The reasons of problems and of device states.
const (
	ReasonWaitingForModel  = "WaitingForModel"
	ReasonUnknownProtocol  = "UnknownProtocol"
	ReasonInvalidProtocol  = "InvalidProtocolConfig"
	ReasonInvalidProperty  = "InvalidProperty"
	ReasonNotInModel       = "PropertyNotInModel"
	ReasonSuspiciousPeriod = "SuspiciousCollectCycle"
	ReasonConnecting       = "Connecting"
	ReasonOnline           = "Online"
	ReasonOffline          = "Offline"
	ReasonStateStore       = "StateStoreUnavailable"
)
