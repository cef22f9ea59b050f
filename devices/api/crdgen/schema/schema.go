// Package schema derives CustomResourceDefinitions from the Go types of the device
// API: structure from the types, descriptions from their comments, and what Go
// cannot say (enumerations, bounds, keys) from a table. crdgen and a test call it.
package schema

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"

	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// kind describes one CustomResourceDefinition.
type kind struct {
	object           any
	singular, plural string
	columns          []apiext.CustomResourceColumnDefinition
}

var kinds = []kind{
	{v1beta1.Device{}, "device", v1beta1.ResourceDevices, []apiext.CustomResourceColumnDefinition{
		{Name: "Protocol", Type: "string", JSONPath: ".spec.protocol.protocolName"},
		{Name: "Node", Type: "string", JSONPath: ".spec.nodeName"},
		{Name: "State", Type: "string", JSONPath: ".status.state"},
		{Name: "Last-Online", Type: "string", JSONPath: ".status.lastOnline"},
		{Name: "Model", Type: "string", JSONPath: ".spec.deviceModelRef.name", Priority: 1},
		age,
	}},
	{v1beta1.DeviceModel{}, "devicemodel", v1beta1.ResourceDeviceModels, []apiext.CustomResourceColumnDefinition{
		{Name: "Protocol", Type: "string", JSONPath: ".spec.protocol"}, age,
	}},
	{v1beta1.DeviceStatus{}, "devicestatus", v1beta1.ResourceDeviceStatuses, []apiext.CustomResourceColumnDefinition{
		{Name: "Node", Type: "string", JSONPath: ".status.extensions.node"},
		{Name: "State", Type: "string", JSONPath: ".status.state"},
		{Name: "Reason", Type: "string", JSONPath: ".status.extensions.reason"},
		{Name: "Online-Since", Type: "date", JSONPath: ".status.extensions.onlineSince"},
		{Name: "Last-Online", Type: "date", JSONPath: ".status.lastOnlineTime"},
		{Name: "Message", Type: "string", JSONPath: ".status.extensions.message", Priority: 1},
	}},
}

var age = apiext.CustomResourceColumnDefinition{Name: "Age", Type: "date", JSONPath: ".metadata.creationTimestamp"}

// Files returns the manifests by file name. Source is the directory of package v1beta1,
// whose comments become descriptions.
func Files(source string) (map[string][]byte, error) {
	comments, err := readComments(source)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, k := range kinds {
		b, err := manifest(k.definition(builder{comments}))
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", k.plural, err)
		}
		files[v1beta1.GroupName+"_"+k.plural+".yaml"] = b
	}
	return files, nil
}

func (k kind) definition(b builder) *apiext.CustomResourceDefinition {
	t := reflect.TypeOf(k.object)
	s := b.of(t)
	s.Description = b.comments[t.Name()]
	return &apiext.CustomResourceDefinition{
		TypeMeta:   metav1.TypeMeta{APIVersion: apiext.SchemeGroupVersion.String(), Kind: "CustomResourceDefinition"},
		ObjectMeta: metav1.ObjectMeta{Name: k.plural + "." + v1beta1.GroupName},
		Spec: apiext.CustomResourceDefinitionSpec{
			Group: v1beta1.GroupName, Scope: apiext.NamespaceScoped,
			Names: apiext.CustomResourceDefinitionNames{Kind: t.Name(), ListKind: t.Name() + "List", Plural: k.plural, Singular: k.singular},
			Versions: []apiext.CustomResourceDefinitionVersion{{
				Name: v1beta1.SchemeGroupVersion.Version, Served: true, Storage: true,
				AdditionalPrinterColumns: k.columns, Schema: &apiext.CustomResourceValidation{OpenAPIV3Schema: &s},
			}},
		},
	}
}

// builder derives schemas from types.
type builder struct{ comments map[string]string }

func (b builder) of(t reflect.Type) apiext.JSONSchemaProps {
	switch t {
	case reflect.TypeFor[v1beta1.CustomizedValue]():
		yes := true
		return apiext.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &yes}
	case reflect.TypeFor[metav1.ObjectMeta]():
		return apiext.JSONSchemaProps{Type: "object"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return b.of(t.Elem())
	case reflect.Slice:
		item := b.of(t.Elem())
		return apiext.JSONSchemaProps{Type: "array", Items: &apiext.JSONSchemaPropsOrArray{Schema: &item}}
	case reflect.Map:
		value := b.of(t.Elem())
		return apiext.JSONSchemaProps{Type: "object", AdditionalProperties: &apiext.JSONSchemaPropsOrBool{Allows: true, Schema: &value}}
	case reflect.Bool:
		return apiext.JSONSchemaProps{Type: "boolean"}
	case reflect.Int, reflect.Int64:
		return apiext.JSONSchemaProps{Type: "integer", Format: "int64"}
	case reflect.Int32:
		return apiext.JSONSchemaProps{Type: "integer", Format: "int32"}
	case reflect.Struct:
		s := apiext.JSONSchemaProps{Type: "object", Properties: map[string]apiext.JSONSchemaProps{}}
		b.fields(t, &s)
		s.XValidations = validations[t.Name()]
		return s
	default:
		return apiext.JSONSchemaProps{Type: "string"}
	}
}

func (b builder) fields(t reflect.Type, s *apiext.JSONSchemaProps) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && strings.Contains(options, "inline") {
			b.fields(f.Type, s)
			continue
		}
		p := b.of(f.Type)
		if d := b.comments[t.Name()+"."+f.Name]; d != "" {
			p.Description = d
		}
		if rule := rules[t.Name()+"."+name]; rule != nil {
			rule(&p)
		}
		s.Properties[name] = p
		if !strings.Contains(options, "omitempty") {
			s.Required = append(s.Required, name)
		}
	}
}

// manifest encodes a definition without the fields that the API server sets.
func manifest(d *apiext.CustomResourceDefinition) ([]byte, error) {
	b, err := yaml.Marshal(d)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	if err := yaml.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	delete(m, "status")
	if meta, ok := m["metadata"].(map[string]any); ok {
		delete(meta, "creationTimestamp")
	}
	if b, err = yaml.Marshal(m); err != nil {
		return nil, err
	}
	head := []byte("# Generated from devices/api/v1beta1 by devices/api/crdgen (go generate). Do not edit.\n")
	return bytes.Join([][]byte{head, b}, nil), nil
}
