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
	// Status is preserved and not used. Up to KubeEdge 1.22 it held the twins, which are in
	// DeviceStatus now.
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

// DeviceSpec has the model, the node, the protocol and the desired values of a device.
type DeviceSpec struct {
	// DeviceModelRef names the DeviceModel, in the device's namespace.
	DeviceModelRef *corev1.LocalObjectReference `json:"deviceModelRef,omitempty"`
	// NodeName is the node that operates the device.
	NodeName string `json:"nodeName,omitempty"`
	// Properties are the properties in use; each must be in the model.
	Properties []DeviceProperty `json:"properties,omitempty"`
	// Protocol has the protocol of the device and its settings.
	Protocol ProtocolConfig `json:"protocol,omitempty"`
	// Methods are named groups of properties that are written together.
	Methods []DeviceMethod `json:"methods,omitempty"`
	// StateReport configures whether and how often the device's state is reported.
	StateReport *DeviceStateReport `json:"stateReport,omitempty"`
}

// ProtocolConfig selects a protocol driver and has its settings.
type ProtocolConfig struct {
	// ProtocolName selects the driver, for example "modbus".
	ProtocolName string `json:"protocolName,omitempty"`
	// ConfigData has the settings of the driver. Its keys override those of the model's
	// protocolConfigData.
	ConfigData *CustomizedValue `json:"configData,omitempty"`
}

// DeviceProperty is one property of a device.
type DeviceProperty struct {
	// Name is the property's name in the model.
	Name string `json:"name,omitempty"`
	// Desired is the desired value of the property; if it is absent nothing is written.
	Desired *TwinProperty `json:"desired,omitempty"`
	// Visitors has the protocol's settings of the property, such as its address. Its keys
	// override those of the model's visitors.
	Visitors *VisitorConfig `json:"visitors,omitempty"`
	// ReportCycle is the period of pushing samples in milliseconds, 0: 1 s.
	ReportCycle int64 `json:"reportCycle,omitempty"`
	// CollectCycle is the period of reading in milliseconds, 0: 1 s.
	CollectCycle int64 `json:"collectCycle,omitempty"`
	// ReportToCloud includes the property's reported value in the DeviceStatus.
	ReportToCloud bool `json:"reportToCloud,omitempty"`
	// PushMethod has further destinations of the property's samples.
	PushMethod *PushMethod `json:"pushMethod,omitempty"`
}

// TwinProperty is a desired or reported value and its metadata.
type TwinProperty struct {
	// Value is the value in string form.
	Value string `json:"value"`
	// Metadata of the value: timestamp (milliseconds since 1970), type, and more.
	Metadata map[string]string `json:"metadata,omitempty"`
}

// VisitorConfig has a protocol's settings of a property, such as its address.
type VisitorConfig struct {
	// ProtocolName is the protocol to which ConfigData applies.
	ProtocolName string `json:"protocolName,omitempty"`
	// ConfigData has the settings of the driver.
	ConfigData *CustomizedValue `json:"configData,omitempty"`
}

// DeviceMethod is a named group of properties that an application may set together.
type DeviceMethod struct {
	Name          string   `json:"name,omitempty"`
	Description   string   `json:"description,omitempty"`
	PropertyNames []string `json:"propertyNames,omitempty"`
}

// DeviceStateReport configures whether and how often (milliseconds) the state is reported.
type DeviceStateReport struct {
	ReportToCloud bool  `json:"reportToCloud,omitempty"`
	ReportCycle   int64 `json:"reportCycle,omitempty"`
}
