// Package dmitest has the device and the model that the tests of package dmi and of those below
// it use.
package dmitest

import (
	"encoding/json"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// UID returns the UID of the device of that name.
func UID(name string) types.UID { return types.UID("uid-of-" + name) }

// Model returns a model with a value to read, one to write, and a truth value.
func Model() *v1beta1.DeviceModel {
	m := &v1beta1.DeviceModel{}
	Decode(`{
		"metadata": {"name": "pump", "namespace": "default", "resourceVersion": "1"},
		"spec": {
			"protocol": "telepathy",
			"protocolConfigData": {"Port": 4840, "timeout": 1000},
			"properties": [
				{"name": "flow", "type": "FLOAT", "accessMode": "ReadOnly", "unit": "l/s",
				 "visitors": {"protocolName": "telepathy", "configData": {"thought": "flow", "scale": 0.5}}},
				{"name": "speed", "type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "3000"},
				{"name": "running", "type": "BOOLEAN", "accessMode": "ReadWrite"}
			]
		}
	}`, m)
	return m
}

// Pump returns a device of the model; changes are made to it before it is returned.
func Pump(name string, changes ...func(*v1beta1.Device)) *v1beta1.Device {
	d := &v1beta1.Device{}
	Decode(`{
		"metadata": {"namespace": "default", "resourceVersion": "1"},
		"spec": {
			"deviceModelRef": {"name": "pump"}, "nodeName": "node-1",
			"protocol": {"protocolName": "telepathy", "configData": {"host": "10.0.0.1", "port": 4841}},
			"properties": [
				{"name": "flow", "collectCycle": 50, "reportToCloud": true, "visitors": {"configData": {"Thought": "inflow"}}},
				{"name": "speed", "collectCycle": 50, "reportToCloud": true},
				{"name": "running", "collectCycle": 50, "reportToCloud": true}
			]
		}
	}`, d)
	d.Name = name
	d.UID = UID(name)
	for _, c := range changes {
		c(d)
	}
	return d
}

// Desiring returns a change of a desired value.
func Desiring(property, value string) func(*v1beta1.Device) {
	return func(d *v1beta1.Device) {
		for i := range d.Spec.Properties {
			if d.Spec.Properties[i].Name == property {
				d.Spec.Properties[i].Desired = &v1beta1.TwinProperty{Value: value}
			}
		}
		d.ResourceVersion += "1"
	}
}

// Decode decodes JSON as Kubernetes' clients do. It panics if the text is invalid.
func Decode(text string, into any) {
	if err := json.NewDecoder(strings.NewReader(text)).Decode(into); err != nil {
		panic(err)
	}
}

// Resolve returns the definition of a device.
func Resolve(d *v1beta1.Device, m *v1beta1.DeviceModel) devices.Definition {
	def, _, _ := devices.Resolve(d, m)
	return def
}
