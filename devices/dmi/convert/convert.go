// Package convert translates between the objects of a device and the messages of KubeEdge's
// Device Mapper Interface: a device with its model to what a mapper gets, and the values that a
// mapper reports, which are text, to values. It consists of pure functions. Package dmi calls
// it.
package convert

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	pb "github.com/petiole-io/petiole/devices/dmi/v1beta1"
)

// Bundle has the messages with which a mapper gets a device.
type Bundle struct {
	Device *pb.Device
	Model  *pb.DeviceModel
	// Digest is equal if the mapper need not get the device again. It does not cover which
	// properties are ReadOnly because a value is withheld.
	Digest string
}

// Device returns the bundle of a device. It merges the model's settings into the device's,
// because the interface's model has none. Properties that are unusable are left out. It includes
// the valid properties of the definition and streams, which only mappers handle. Values are the
// desired values to write. A property with another desired value, which is not to be written, is
// ReadOnly in the model: KubeEdge's mappers hand an empty value to the driver of a property that
// can be written, and most drivers panic on it. The model has a name of its own then, because
// the devices of a mapper share their models.
func Device(def devices.Definition, unusable map[string]bool, values map[string]SentValue) (Bundle, error) {
	config, err := ProtocolSettings(def)
	if err != nil {
		return Bundle{}, fmt.Errorf("protocol config: %w", err)
	}
	spec := &pb.DeviceSpec{
		DeviceModelReference: def.Model.Name,
		Protocol:             &pb.ProtocolConfig{ProtocolName: def.Protocol, ConfigData: config},
	}
	status := &pb.DeviceStatus{ReportToCloud: true}
	if r := def.Object.Spec.StateReport; r != nil {
		status.ReportToCloud, status.ReportCycle = r.ReportToCloud, r.ReportCycle
	}
	sent := map[string]bool{}
	for i := range def.Object.Spec.Properties {
		p := &def.Object.Spec.Properties[i]
		if sent[p.Name] || unusable[p.Name] || !sentToMapper(def, p.Name) {
			continue
		}
		sent[p.Name] = true
		property, err := convertProperty(def, p, values[p.Name])
		if err != nil {
			return Bundle{}, fmt.Errorf("property %s: %w", p.Name, err)
		}
		spec.Properties = append(spec.Properties, property)
		// The first mappers of v1beta1 look here for the properties to report.
		status.Twins = append(status.Twins, &pb.Twin{PropertyName: p.Name, ObservedDesired: property.Desired, Reported: &pb.TwinProperty{}})
	}
	for _, m := range def.Object.Spec.Methods {
		spec.Methods = append(spec.Methods, &pb.DeviceMethod{Name: m.Name, Description: m.Description, PropertyNames: m.PropertyNames})
	}
	b := Bundle{
		Device: &pb.Device{Name: def.Device.Name, Namespace: def.Device.Namespace, Spec: spec, Status: status},
		Model:  convertModel(def.Model),
	}
	b.Digest, err = Digest(b.Model, b.Device)
	withhold(b.Model, withheld(def, values))
	spec.DeviceModelReference = b.Model.GetName()
	return b, err
}

// SentValue is a value that was sent to a mapper.
type SentValue struct {
	Value string `json:"value"`
	// Time is when it was sent, in milliseconds since 1970.
	Time int64 `json:"time"`
	// Confirmed reports that the mapper has reported the value since.
	Confirmed bool `json:"confirmed,omitempty"`
	// Command marks the value of a command, which is never saved.
	Command bool `json:"-"`
}

// sentToMapper reports whether a property is sent to the mapper.
func sentToMapper(def devices.Definition, name string) bool {
	for _, p := range def.Points {
		if p.Name == name {
			return true
		}
	}
	m := modelProperty(def.Model, name)
	return m != nil && strings.EqualFold(string(m.Type), string(v1beta1.STREAM))
}

func convertProperty(def devices.Definition, p *v1beta1.DeviceProperty, value SentValue) (*pb.DeviceProperty, error) {
	visitors, err := VisitorSettings(def, p.Name)
	if err != nil {
		return nil, err
	}
	method, err := convertPush(p.PushMethod)
	if err != nil {
		return nil, err
	}
	m := modelProperty(def.Model, p.Name)
	return &pb.DeviceProperty{
		Name: p.Name, Desired: convertDesired(p, m, value), Visitors: visitors,
		ReportCycle: p.ReportCycle, CollectCycle: p.CollectCycle, PushMethod: method,
		// For the mapper the leaf is the cloud. It needs every value, for telemetry and to see
		// a write take effect, and decides itself what goes on to the cloud.
		ReportToCloud: true,
	}, nil
}

// MetaCommand is the metadata key of a command's value: a mapper that compares before it
// writes should write such a value always. KubeEdge's mappers write every value they get.
const MetaCommand = "command"

// convertDesired returns the value for the mapper to write. Without one it is empty and not
// nil, since mappers dereference it.
func convertDesired(p *v1beta1.DeviceProperty, m *v1beta1.ModelProperty, value SentValue) *pb.TwinProperty {
	metadata := map[string]string{"type": strings.ToLower(string(m.Type))}
	if value.Time != 0 {
		metadata["timestamp"] = strconv.FormatInt(value.Time, 10)
	}
	if value.Command {
		metadata[MetaCommand] = "true"
	}
	if p.Desired != nil && p.Desired.Value == value.Value && !value.Command {
		maps.Copy(metadata, p.Desired.Metadata)
	}
	text := value.Value
	if parsable, err := FormatValue(m.Type, text); err == nil {
		text = parsable
	}
	return &pb.TwinProperty{Value: text, Metadata: metadata}
}

// withheld returns the names of the properties with a desired value that is not to be written,
// in order.
func withheld(def devices.Definition, values map[string]SentValue) []string {
	var names []string
	for i := range def.Object.Spec.Properties {
		p := &def.Object.Spec.Properties[i]
		if _, sent := values[p.Name]; sent || p.Desired == nil || p.Desired.Value == "" || slices.Contains(names, p.Name) {
			continue
		}
		if m := modelProperty(def.Model, p.Name); m != nil && m.AccessMode == v1beta1.ReadWrite {
			names = append(names, p.Name)
		}
	}
	slices.Sort(names)
	return names
}

// withhold makes properties of a model ReadOnly, and gives it a name of its own. No object can
// have a name with a colon.
func withhold(m *pb.DeviceModel, names []string) {
	if len(names) == 0 {
		return
	}
	for _, p := range m.GetSpec().GetProperties() {
		if slices.Contains(names, p.GetName()) {
			p.AccessMode = string(v1beta1.ReadOnly)
		}
	}
	h := sha256.Sum256([]byte(strings.Join(names, "\x00")))
	m.Name += ":read-only-" + hex.EncodeToString(h[:4])
}

func convertModel(m *v1beta1.DeviceModel) *pb.DeviceModel {
	spec := &pb.DeviceModelSpec{}
	for _, p := range m.Spec.Properties {
		spec.Properties = append(spec.Properties, &pb.ModelProperty{
			Name: p.Name, Description: p.Description, Type: string(p.Type), AccessMode: string(p.AccessMode),
			Minimum: p.Minimum, Maximum: p.Maximum, Unit: p.Unit,
		})
	}
	return &pb.DeviceModel{Name: m.Name, Namespace: m.Namespace, Spec: spec}
}

// ProtocolSettings returns the settings of the device's protocol.
func ProtocolSettings(def devices.Definition) (*pb.CustomizedValue, error) {
	return pack(overlay(def.Model.Spec.ProtocolConfigData, def.Object.Spec.Protocol.ConfigData))
}

// VisitorSettings returns the protocol's settings of a property.
func VisitorSettings(def devices.Definition, name string) (*pb.VisitorConfig, error) {
	var defaults, own *v1beta1.CustomizedValue
	if m := modelProperty(def.Model, name); m != nil && m.Visitors != nil && sameProtocol(def, m.Visitors) {
		defaults = m.Visitors.ConfigData
	}
	for i := range def.Object.Spec.Properties {
		if p := &def.Object.Spec.Properties[i]; p.Name == name && p.Visitors != nil {
			own = p.Visitors.ConfigData
			break
		}
	}
	data, err := pack(overlay(defaults, own))
	if err != nil {
		return nil, err
	}
	return &pb.VisitorConfig{ProtocolName: def.Protocol, ConfigData: data}, nil
}

// sameProtocol reports whether a model's visitors are for the device's protocol.
func sameProtocol(def devices.Definition, v *v1beta1.VisitorConfig) bool {
	name := strings.TrimSpace(v.ProtocolName)
	return name == "" || strings.EqualFold(name, def.Protocol)
}

func modelProperty(m *v1beta1.DeviceModel, name string) *v1beta1.ModelProperty {
	for i := range m.Spec.Properties {
		if m.Spec.Properties[i].Name == name {
			return &m.Spec.Properties[i]
		}
	}
	return nil
}

// Digest is equal for equal messages.
func Digest(messages ...proto.Message) (string, error) {
	h := sha256.New()
	for _, m := range messages {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			return "", fmt.Errorf("encode for the mapper: %w", err) // a string that is not UTF-8
		}
		fmt.Fprintf(h, "%d ", len(b))
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}
