package scan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/modbus/codec"
)

const (
	protocol = "modbus"
	// collectCycle of the properties, in ms: a slow serial line must not be overloaded.
	collectCycle = 10_000
	// maxProperties is the most registers or bits of one table that become properties.
	maxProperties = 64
)

// Manifests returns a Device and a DeviceModel of the unit to start from, both of the given name.
// Config has the settings of the connection. If a table has more registers than one would want as
// properties, those that read zero are left out first.
func (u Unit) Manifests(namespace, name, node string, config map[string]any) (*v1beta1.Device, *v1beta1.DeviceModel) {
	meta := func(kind string) (metav1.TypeMeta, metav1.ObjectMeta) {
		return metav1.TypeMeta{APIVersion: v1beta1.SchemeGroupVersion.String(), Kind: kind}, metav1.ObjectMeta{Namespace: namespace, Name: name}
	}
	d, m := &v1beta1.Device{}, &v1beta1.DeviceModel{}
	d.TypeMeta, d.ObjectMeta = meta("Device")
	m.TypeMeta, m.ObjectMeta = meta("DeviceModel")
	m.Spec.Protocol = protocol
	m.Spec.Properties = u.properties()
	config = maps.Clone(config)
	config["slaveID"] = int(u.ID)
	if len(u.Identification) > 0 {
		config["identification"] = true
	}
	d.Spec.NodeName = node
	d.Spec.DeviceModelRef = &corev1.LocalObjectReference{Name: name}
	d.Spec.Protocol = v1beta1.ProtocolConfig{ProtocolName: protocol, ConfigData: &v1beta1.CustomizedValue{Data: config}}
	for _, p := range m.Spec.Properties {
		d.Spec.Properties = append(d.Spec.Properties, v1beta1.DeviceProperty{Name: p.Name, CollectCycle: collectCycle, ReportToCloud: true})
	}
	return d, m
}

func (u Unit) properties() (all []v1beta1.ModelProperty) {
	taken := map[string]bool{}
	for _, m := range u.SunSpec {
		for _, s := range m.points() {
			if p := m.property(s); !taken[p.Name] { // a device may have a model twice
				taken[p.Name] = true
				all = append(all, p)
			}
		}
	}
	for _, t := range []codec.Table{codec.Holdings, codec.Inputs, codec.Coils, codec.Discretes} {
		values := u.Values[t]
		for _, at := range selected(values) {
			p := v1beta1.ModelProperty{Type: v1beta1.INT, AccessMode: v1beta1.ReadOnly, Description: fmt.Sprintf("read %d in the scan", values[at])}
			settings := map[string]any{"register": t.String(), "offset": at, "dataType": "uint16"}
			if t.Bits() {
				p.Type = v1beta1.BOOLEAN
				delete(settings, "dataType")
			}
			p.Name = fmt.Sprintf("%s%d", strings.ToLower(strings.TrimSuffix(t.String(), "Register")), at)
			p.Visitors = visitor(settings)
			all = append(all, p)
		}
	}
	return all
}

// selected returns the addresses of a table that become properties, in order.
func selected(values map[int]uint16) []int {
	at := slices.Sorted(maps.Keys(values))
	if len(at) > maxProperties {
		at = slices.DeleteFunc(at, func(i int) bool { return values[i] == 0 })
	}
	return at[:min(len(at), maxProperties)]
}

func visitor(settings map[string]any) *v1beta1.VisitorConfig {
	return &v1beta1.VisitorConfig{ProtocolName: protocol, ConfigData: &v1beta1.CustomizedValue{Data: settings}}
}

// String describes the unit in one line.
func (u Unit) String() string {
	parts := []string{fmt.Sprintf("unit %d", u.ID)}
	for _, name := range slices.Sorted(maps.Keys(u.Identification)) {
		parts = append(parts, fmt.Sprintf("%s %q", name, u.Identification[name]))
	}
	for _, m := range u.SunSpec {
		parts = append(parts, fmt.Sprintf("SunSpec model %d at %d", m.ID, m.Address))
	}
	if len(u.Open) == 0 {
		parts = append(parts, "no readable registers in the range")
	}
	for _, r := range u.Open {
		parts = append(parts, r.String())
	}
	if u.Incomplete != "" {
		parts = append(parts, "not scanned to its end: "+u.Incomplete)
	}
	return strings.Join(parts, ", ")
}
