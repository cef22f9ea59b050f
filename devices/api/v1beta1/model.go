package v1beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// DeviceModel has the properties and settings that devices of one type have in common.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
type DeviceModel struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec DeviceModelSpec `json:"spec,omitempty"`
}

// DeviceModelList is a list of device models.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
type DeviceModelList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []DeviceModel `json:"items"`
}

// DeviceModelSpec describes the properties of the model's devices.
type DeviceModelSpec struct {
	Properties []ModelProperty `json:"properties,omitempty"`
	// Protocol is the protocol of the model's devices.
	Protocol string `json:"protocol,omitempty"`
	// ProtocolConfigData has defaults for the devices' protocol.configData.
	ProtocolConfigData *CustomizedValue `json:"protocolConfigData,omitempty"`
}

// PropertyType is the type of a property's value.
type PropertyType string

// The property types.
const (
	INT     PropertyType = "INT"
	FLOAT   PropertyType = "FLOAT"
	DOUBLE  PropertyType = "DOUBLE"
	STRING  PropertyType = "STRING"
	BOOLEAN PropertyType = "BOOLEAN"
	BYTES   PropertyType = "BYTES"
	STREAM  PropertyType = "STREAM"
)

// PropertyAccessMode is whether a property may be written.
type PropertyAccessMode string

// The access modes.
const (
	ReadWrite PropertyAccessMode = "ReadWrite"
	ReadOnly  PropertyAccessMode = "ReadOnly"
)

// ModelProperty describes one property.
type ModelProperty struct {
	Name        string             `json:"name,omitempty"`
	Description string             `json:"description,omitempty"`
	Type        PropertyType       `json:"type,omitempty"`
	AccessMode  PropertyAccessMode `json:"accessMode,omitempty"`
	// Minimum and Maximum bound written values; numbers as strings, empty: no bound.
	Minimum string `json:"minimum,omitempty"`
	Maximum string `json:"maximum,omitempty"`
	// Unit is the unit of measurement.
	Unit string `json:"unit,omitempty"`
	// Visitors has defaults for the devices' visitors.
	Visitors *VisitorConfig `json:"visitors,omitempty"`
}
