package v1beta1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Device is one device at one node, an instance of a DeviceModel.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
type Device struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec DeviceSpec `json:"spec,omitempty"`
	// Status is kept as it is found. Up to KubeEdge 1.22 it held the twins; they are
	// in DeviceStatus now.
	Status *CustomizedValue `json:"status,omitempty"`
}

// DeviceList is a list of devices.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
type DeviceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Device `json:"items"`
}

// DeviceSpec says what the device is, where it is reached and what is wanted of it.
type DeviceSpec struct {
	// DeviceModelRef names the DeviceModel, in the device's namespace.
	DeviceModelRef *corev1.LocalObjectReference `json:"deviceModelRef,omitempty"`
	// NodeName is the node that talks to the device.
	NodeName string `json:"nodeName,omitempty"`
	// Properties are the properties in use; each must be in the model.
	Properties []DeviceProperty `json:"properties,omitempty"`
	// Protocol says how the device is reached.
	Protocol ProtocolConfig `json:"protocol,omitempty"`
	// Methods are named groups of properties that are written together.
	Methods []DeviceMethod `json:"methods,omitempty"`
	// StateReport says whether and how often the device's state is reported.
	StateReport *DeviceStateReport `json:"stateReport,omitempty"`
}

// ProtocolConfig selects a protocol driver and holds its settings.
type ProtocolConfig struct {
	// ProtocolName selects the driver, for example "modbus".
	ProtocolName string `json:"protocolName,omitempty"`
	// ConfigData is read by the driver. Its keys win over the model's
	// protocolConfigData.
	ConfigData *CustomizedValue `json:"configData,omitempty"`
}

// DeviceProperty is one property of a device.
type DeviceProperty struct {
	// Name is the property's name in the model.
	Name string `json:"name,omitempty"`
	// Desired is the value that the property shall have; absent, it is left alone.
	Desired *TwinProperty `json:"desired,omitempty"`
	// Visitors says where the protocol finds the property. Its keys win over the
	// model's visitors.
	Visitors *VisitorConfig `json:"visitors,omitempty"`
	// ReportCycle is the period of the push to applications in milliseconds, 0: 1 s.
	ReportCycle int64 `json:"reportCycle,omitempty"`
	// CollectCycle is the period of reading in milliseconds, 0: 1 s.
	CollectCycle int64 `json:"collectCycle,omitempty"`
	// ReportToCloud puts the property's reported value into the DeviceStatus.
	ReportToCloud bool `json:"reportToCloud,omitempty"`
	// PushMethod says where else the samples go.
	PushMethod *PushMethod `json:"pushMethod,omitempty"`
}

// TwinProperty is a value with its metadata: a desired or a reported one.
type TwinProperty struct {
	// Value is the value in string form.
	Value string `json:"value"`
	// Metadata goes with the value: timestamp (milliseconds since 1970), type, and more.
	Metadata map[string]string `json:"metadata,omitempty"`
}

// VisitorConfig says where a protocol finds a property.
type VisitorConfig struct {
	// ProtocolName is the protocol that ConfigData is for.
	ProtocolName string `json:"protocolName,omitempty"`
	// ConfigData is read by the driver.
	ConfigData *CustomizedValue `json:"configData,omitempty"`
}

// DeviceMethod is a named group of properties that an application may set together.
type DeviceMethod struct {
	Name          string   `json:"name,omitempty"`
	Description   string   `json:"description,omitempty"`
	PropertyNames []string `json:"propertyNames,omitempty"`
}

// DeviceStateReport says whether and how often (milliseconds) the state is reported.
type DeviceStateReport struct {
	ReportToCloud bool  `json:"reportToCloud,omitempty"`
	ReportCycle   int64 `json:"reportCycle,omitempty"`
}
