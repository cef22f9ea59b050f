package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	yamlstream "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/modbus"
)

// manifestSet holds the Devices and DeviceModels of the files.
type manifestSet struct {
	devices []*v1beta1.Device
	models  map[string]*v1beta1.DeviceModel
}

// loadDevices reads manifest files and returns their Modbus devices and the problems found.
func loadDevices(paths []string, in io.Reader) ([]devices.Definition, []modbus.Finding, error) {
	m := manifestSet{models: map[string]*v1beta1.DeviceModel{}}
	for _, path := range paths {
		if err := m.load(path, in); err != nil {
			return nil, nil, err
		}
	}
	var defs []devices.Definition
	var found []modbus.Finding
	for _, d := range m.devices {
		var model *v1beta1.DeviceModel
		if d.Spec.DeviceModelRef != nil {
			model = m.models[d.Namespace+"/"+d.Spec.DeviceModelRef.Name]
		}
		def, _, problems := devices.Resolve(d, model)
		name, invalid := def.Device.String(), false
		if model == nil {
			problems = []devices.Problem{{Reason: devices.ReasonWaitingForModel, Message: fmt.Sprintf("deviceModelRef.name %q is not in the files", modelName(d))}}
		} else if !isModbus(def.Protocol) {
			problems = append(problems, devices.Problem{
				Reason:  devices.ReasonUnknownProtocol,
				Message: fmt.Sprintf("protocol.protocolName %q is not Modbus", def.Protocol),
			})
			invalid = true
		}
		for _, p := range problems {
			found = append(found, modbus.Finding{Device: name, Problem: p, Warning: p.Reason == devices.ReasonSuspiciousPeriod || p.Reason == devices.ReasonStream})
			invalid = invalid || p.Property == ""
		}
		if !invalid {
			defs = append(defs, def)
		}
	}
	return defs, found, nil
}

func modelName(d *v1beta1.Device) string {
	if d.Spec.DeviceModelRef == nil {
		return ""
	}
	return d.Spec.DeviceModelRef.Name
}

// isModbus reports whether the Modbus driver supports a protocol.
func isModbus(protocol string) bool {
	return slices.Contains(modbus.New(nil).Protocols(), strings.ToLower(protocol))
}

func (m *manifestSet) load(path string, in io.Reader) error {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("read manifests: %w", err)
		}
		defer f.Close()
		in = f
	}
	r := yamlstream.NewYAMLReader(bufio.NewReader(in))
	for n := 1; ; n++ {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = m.add(doc)
		}
		if err != nil {
			return fmt.Errorf("%s, document %d: %w", path, n, err)
		}
	}
}

// add decodes a document strictly: an unknown field is an error that names it.
func (m *manifestSet) add(doc []byte) error {
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(doc, &kind); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	if len(bytes.TrimSpace(doc)) == 0 || kind == (metav1.TypeMeta{}) {
		return nil // the document has only comments
	}
	group, _, _ := strings.Cut(kind.APIVersion, "/")
	if group != v1beta1.GroupName {
		return nil // the files may contain objects of other kinds
	}
	if kind.APIVersion != v1beta1.SchemeGroupVersion.String() {
		return fmt.Errorf("apiVersion %q is not %s", kind.APIVersion, v1beta1.SchemeGroupVersion)
	}
	switch kind.Kind {
	case "Device":
		var d v1beta1.Device
		if err := yaml.UnmarshalStrict(doc, &d); err != nil {
			return fmt.Errorf("decode Device: %w", err)
		}
		d.Namespace = namespaceOf(d.Namespace)
		if slices.ContainsFunc(m.devices, func(x *v1beta1.Device) bool { return x.Namespace == d.Namespace && x.Name == d.Name }) {
			return fmt.Errorf("device %s/%s appears twice", d.Namespace, d.Name)
		}
		m.devices = append(m.devices, &d)
	case "DeviceModel":
		var d v1beta1.DeviceModel
		if err := yaml.UnmarshalStrict(doc, &d); err != nil {
			return fmt.Errorf("decode DeviceModel: %w", err)
		}
		d.Namespace = namespaceOf(d.Namespace)
		if m.models[d.Namespace+"/"+d.Name] != nil {
			return fmt.Errorf("DeviceModel %s/%s appears twice", d.Namespace, d.Name)
		}
		m.models[d.Namespace+"/"+d.Name] = &d
	}
	return nil
}

func namespaceOf(s string) string {
	if s == "" {
		return metav1.NamespaceDefault
	}
	return s
}
