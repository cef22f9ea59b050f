package v1beta1_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/petiole-io/petiole/devices/api/crdgen/schema"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

const (
	crds     = "../../../deploy/kubernetes/crds"
	examples = "../../../deploy/kubernetes/examples/devices"
)

func TestManifestsAreWhatTheTypesSay(t *testing.T) {
	files, err := schema.Files(".")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(crds, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs from the types: run go generate in devices/api/v1beta1", name)
		}
	}
}

func TestSchemaKeepsEveryField(t *testing.T) {
	for kind, object := range map[string]any{"Device": &v1beta1.Device{}, "DeviceModel": &v1beta1.DeviceModel{}, "DeviceStatus": &v1beta1.DeviceStatus{}} {
		fill(reflect.ValueOf(object).Elem(), 0)
		raw := toMap(t, object)
		delete(raw, "metadata")
		want := toMap(t, raw)
		s, _ := crd(t, kind)
		pruning.Prune(raw, s, false)
		if !reflect.DeepEqual(raw, want) {
			t.Errorf("%s: the schema loses fields:\nin  %v\nout %v", kind, want, raw)
		}
	}
}

func TestExamplesRoundTripAndAreValid(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(examples, "*.yaml"))
	if err != nil || len(files) < 3 {
		t.Fatalf("examples: %v %v", files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var raw map[string]any
		if err := yaml.Unmarshal(b, &raw); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		kind, _ := raw["kind"].(string)
		object := map[string]any{"Device": &v1beta1.Device{}, "DeviceModel": &v1beta1.DeviceModel{}}[kind]
		if err := yaml.UnmarshalStrict(b, object); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		back := toMap(t, object)
		if !reflect.DeepEqual(toMap(t, raw), back) {
			t.Errorf("%s does not round-trip:\nin  %v\nout %v", f, raw, back)
		}
		_, validator := crd(t, kind)
		if errs := validation.ValidateCustomResource(nil, back, validator); len(errs) > 0 {
			t.Errorf("%s: %v", f, errs.ToAggregate())
		}
		if kind == "Device" {
			back["spec"].(map[string]any)["properties"].([]any)[0].(map[string]any)["collectCycle"] = int64(-1)
		} else {
			back["spec"].(map[string]any)["properties"].([]any)[0].(map[string]any)["type"] = "INTEGER"
		}
		if errs := validation.ValidateCustomResource(nil, back, validator); len(errs) == 0 {
			t.Errorf("%s: the schema accepts a wrong value", f)
		}
	}
}

func TestFreeObjectsKeepDigits(t *testing.T) {
	const in = `{"a":9007199254740993,"b":0.1,"c":"0.1","d":{"e":[1,null,true]}}`
	var v v1beta1.CustomizedValue
	if err := json.Unmarshal([]byte(in), &v); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(v.DeepCopy())
	if err != nil || string(out) != in {
		t.Fatalf("%s %v", out, err)
	}
	if err := json.Unmarshal([]byte(`[1]`), &v); err == nil {
		t.Fatal("a list is no free object")
	}
}

func TestSchemeKnowsTheKinds(t *testing.T) {
	s := runtime.NewScheme()
	if err := v1beta1.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	for _, o := range []runtime.Object{&v1beta1.DeviceList{}, &v1beta1.DeviceModel{}, &v1beta1.DeviceStatusList{}} {
		if _, _, err := s.ObjectKinds(o); err != nil {
			t.Error(err)
		}
	}
}

func crd(t *testing.T, kind string) (*structural.Structural, validation.SchemaValidator) {
	t.Helper()
	files := map[string]string{"Device": "devices", "DeviceModel": "devicemodels", "DeviceStatus": "devicestatuses"}
	b, err := os.ReadFile(filepath.Join(crds, "devices.kubeedge.io_"+files[kind]+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var d apiext.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(b, &d); err != nil {
		t.Fatal(err)
	}
	var internal apiextensions.JSONSchemaProps
	if err := apiext.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(d.Spec.Versions[0].Schema.OpenAPIV3Schema, &internal, nil); err != nil {
		t.Fatal(err)
	}
	s, err := structural.NewStructural(&internal)
	if err != nil {
		t.Fatal(err)
	}
	if errs := structural.ValidateStructural(nil, s); len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	v, _, err := validation.NewSchemaValidator(&internal)
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}

// fill gives every field a value.
func fill(v reflect.Value, depth int) {
	if depth > 12 {
		return
	}
	if c, ok := v.Addr().Interface().(*v1beta1.CustomizedValue); ok {
		c.Data = map[string]any{"free": "yes"}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), depth+1)
	case reflect.Struct:
		if v.Type().Name() == "ObjectMeta" || v.Type().Name() == "Time" {
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), depth+1)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), depth+1)
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"k": "v"}))
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(1)
	}
}

func toMap(t *testing.T, v any) map[string]any {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	if meta, ok := m["metadata"].(map[string]any); ok {
		delete(meta, "creationTimestamp")
	}
	return m
}
