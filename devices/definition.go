package devices

import (
	"encoding/hex"
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// Definition is a device as its driver sees it: the Device and its DeviceModel merged, with
// defaults.
type Definition struct {
	Device   Ref
	Protocol string
	// Config are the settings of the protocol: the model's, overridden by the device's,
	// without those that this package reads itself.
	Config Settings
	Points []Point
	// Methods are the named groups of properties that commands may set.
	Methods []v1beta1.DeviceMethod

	// The fields below do not count when definitions are compared: a change of them alone
	// does not restart the session.

	// Disabled stops reading and writing the device.
	Disabled bool `json:"-"`
	// Report configures how the device's state is reported.
	Report StateReporting `json:"-"`
	// Object and Model are the objects that were merged. They must not be modified.
	Object *v1beta1.Device      `json:"-"`
	Model  *v1beta1.DeviceModel `json:"-"`
}

// Point is one property of a device.
type Point struct {
	Name     string
	Type     v1beta1.PropertyType
	Writable bool
	// Minimum and Maximum bound written values; empty: no bound.
	Minimum, Maximum string
	Unit             string
	// Visitor are the protocol's settings for the point: the model's, overridden by the
	// device's, without those that this package reads itself.
	Visitor Settings
	// Cycle is the period of reading: collectCycle, default 1 s.
	Cycle time.Duration
	// Report includes the point in the DeviceStatus: reportToCloud.
	Report bool
	// Push is a further destination of samples, or nil; ReportCycle is its period, default
	// 1 s.
	Push        *v1beta1.PushMethod
	ReportCycle time.Duration
	// Reporting decides when a change is reported.
	Reporting Reporting `json:"-"`
	// Group names the points whose desired values are written with one request: writeGroup.
	Group string `json:",omitempty"`
	// Writing decides how desired values are written.
	Writing Writing `json:"-"`
}

// Desired is the desired value of a property.
type Desired struct {
	Property string
	Value    string
	// Digest changes if and only if the desired value or its metadata changes.
	Digest string
	// Policy decides what follows from drift. After Expires the value is no longer written;
	// zero: never.
	Policy  DriftPolicy
	Expires time.Time
	// Rewrite is the time after which the value is written again; zero: it is written once.
	Rewrite    time.Duration
	ownRewrite bool // from the metadata
	// Invalid is the error in the metadata, if any; the value is then rejected.
	Invalid string
}

// Problem is an error in a device's definition. If Property is empty it concerns the whole
// device, which then cannot be operated; otherwise only that property is left out.
type Problem struct {
	Property string `json:"property,omitempty"`
	Reason   string `json:"reason"`
	Message  string `json:"message"`
}

// Warning reports whether the problem leaves nothing out.
func (p Problem) Warning() bool {
	switch p.Reason {
	case ReasonSuspiciousPeriod, ReasonInvalidReporting, ReasonStream, ReasonStale, ReasonUnknownSetting, ReasonAmbiguous:
		return true
	}
	return false
}

// The states of a device besides online, offline and unknown, which are KubeEdge's.
const (
	// StateDegraded: the device responds, but not all of its properties can be read.
	StateDegraded = "degraded"
	// StateDisabled: an annotation disables the device.
	StateDisabled = "disabled"
	// StateMisconfigured: the definition is invalid, so that the device is not operated.
	StateMisconfigured = "misconfigured"
)

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
	// ReasonStale: the object is older than one seen before; the device is read and not
	// written.
	ReasonStale = "OlderThanRecorded"
	// ReasonUnknownSetting: the driver does not know a setting, which is most likely misspelt.
	ReasonUnknownSetting = "UnknownSetting"
	// ReasonAmbiguous: other drivers or people understand the settings differently.
	ReasonAmbiguous = "AmbiguousSetting"
)

// Validate checks a value against the type and the bounds of the point. It returns nil if
// the value may be written.
func (p Point) Validate(value string) *Rejection {
	if !p.Writable {
		return Reject(ReasonReadOnly, "%s is read-only", p.Name)
	}
	switch p.Type {
	case v1beta1.BOOLEAN:
		if _, ok := ParseBool(value); !ok {
			return Reject(ReasonNotValid, "%q is not true or false", value)
		}
	case v1beta1.BYTES:
		if _, err := hex.DecodeString(strings.TrimSpace(value)); err != nil {
			return Reject(ReasonNotValid, "%q is not hexadecimal", value)
		}
	case v1beta1.INT, v1beta1.FLOAT, v1beta1.DOUBLE:
		n, ok := ParseNumber(value)
		if !ok {
			return Reject(ReasonNotValid, "%q is not a number", value)
		}
		if p.Type == v1beta1.INT && !n.IsInt() {
			return Reject(ReasonNotValid, "%q is not an integer", value)
		}
		if lo, ok := ParseNumber(p.Minimum); ok && p.Minimum != "" && n.Cmp(lo) < 0 {
			return Reject(ReasonOutOfBounds, "%s is below the minimum %s", value, p.Minimum)
		}
		if hi, ok := ParseNumber(p.Maximum); ok && p.Maximum != "" && n.Cmp(hi) > 0 {
			return Reject(ReasonOutOfBounds, "%s is above the maximum %s", value, p.Maximum)
		}
	}
	return nil
}
