package v1beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupName is the API group of the devices.
const GroupName = "devices.kubeedge.io"

// SchemeGroupVersion is the group and version of this package.
var SchemeGroupVersion = schema.GroupVersion{Group: GroupName, Version: "v1beta1"}

// The plural names under which the API server serves the kinds.
const (
	ResourceDevices        = "devices"
	ResourceDeviceModels   = "devicemodels"
	ResourceDeviceStatuses = "devicestatuses"
)

// AddToScheme registers the kinds of this package in a scheme.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(SchemeGroupVersion,
		&Device{}, &DeviceList{}, &DeviceModel{}, &DeviceModelList{}, &DeviceStatus{}, &DeviceStatusList{})
	metav1.AddToGroupVersion(s, SchemeGroupVersion)
	return nil
}
