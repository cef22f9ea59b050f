package v1beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// DeviceStatus is the reported state of the device of the same name and namespace.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
type DeviceStatus struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   DeviceStatusSpec   `json:"spec,omitempty"`
	Status DeviceStatusStatus `json:"status,omitempty"`
}

// DeviceStatusList is a list of device statuses.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
type DeviceStatusList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []DeviceStatus `json:"items"`
}

// DeviceStatusSpec is empty.
type DeviceStatusSpec struct{}

// The device states of KubeEdge's mapper framework.
const (
	StateOK           = "ok"
	StateOnline       = "online"
	StateOffline      = "offline"
	StateDisconnected = "disconnected"
	StateUnhealthy    = "unhealthy"
	StateUnknown      = "unknown"
)

// DeviceStatusStatus has the twins and the state of the device.
type DeviceStatusStatus struct {
	// Twins has one entry for each property that is reported or desired.
	Twins []Twin `json:"twins,omitempty"`
	// State is one of the State constants.
	State string `json:"state,omitempty"`
	// LastOnlineTime is when the device last responded, RFC 3339.
	LastOnlineTime string `json:"lastOnlineTime,omitempty"`
	// Extensions is free-form. Petiole sets reason, message, problems and more.
	Extensions *CustomizedValue `json:"extensions,omitempty"`
}

// Twin is the reported and the desired value of one property.
type Twin struct {
	PropertyName string `json:"propertyName,omitempty"`
	// Reported is the last good value.
	Reported *TwinProperty `json:"reported,omitempty"`
	// ObservedDesired is the desired value that the site has received, with its ack.
	ObservedDesired *TwinProperty `json:"observedDesired,omitempty"`
}
