package v1beta1_test

import (
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

// refusals are what the API server says about an object: schema and CEL.
func refusals(t *testing.T, kind string, spec map[string]any) string {
	t.Helper()
	object := map[string]any{"apiVersion": "devices.kubeedge.io/v1beta1", "kind": kind, "metadata": map[string]any{"name": "x"}, "spec": spec}
	s, v := crd(t, kind)
	errs := validation.ValidateCustomResource(nil, object, v)
	rules, left := cel.NewValidator(s, true, celconfig.PerCallLimit).Validate(t.Context(), nil, s, object, nil, celconfig.RuntimeCELCostBudget)
	if left < 0 || left == math.MaxInt64 {
		t.Errorf("%s: the rules cost more than the API server allows", kind)
	}
	var out []string
	for _, e := range append(errs, rules...) {
		out = append(out, e.Error())
	}
	return strings.Join(out, "\n")
}

func modelProperty(more map[string]any) map[string]any {
	p := map[string]any{"name": "temperature", "type": "FLOAT", "accessMode": "ReadOnly"}
	maps.Copy(p, more)
	return map[string]any{"protocol": "modbus", "properties": []any{p}}
}

func deviceProperty(more map[string]any) map[string]any {
	p := map[string]any{"name": "temperature"}
	maps.Copy(p, more)
	return map[string]any{"nodeName": "gateway-1.plant", "properties": []any{p}}
}

func TestWrongInputIsRefusedWithFieldAndValue(t *testing.T) {
	for name, c := range map[string]struct {
		kind string
		spec map[string]any
		want []string
	}{
		"type":         {"DeviceModel", modelProperty(map[string]any{"type": "INTEGER"}), []string{"properties[0].type", "INTEGER"}},
		"access mode":  {"DeviceModel", modelProperty(map[string]any{"accessMode": "RW"}), []string{"properties[0].accessMode", "RW"}},
		"minimum":      {"DeviceModel", modelProperty(map[string]any{"minimum": "low"}), []string{"properties[0].minimum", "low"}},
		"range":        {"DeviceModel", modelProperty(map[string]any{"minimum": "10", "maximum": "9.5"}), []string{"properties[0].minimum", "must not be more than maximum"}},
		"no name":      {"DeviceModel", modelProperty(map[string]any{"name": ""}), []string{"properties[0].name"}},
		"node":         {"Device", map[string]any{"nodeName": "Gateway_1"}, []string{"nodeName", "Gateway_1"}},
		"cycle":        {"Device", deviceProperty(map[string]any{"collectCycle": int64(-5)}), []string{"properties[0].collectCycle", "-5"}},
		"report cycle": {"Device", map[string]any{"stateReport": map[string]any{"reportCycle": int64(-1)}}, []string{"stateReport.reportCycle", "-1"}},
		"desired":      {"Device", deviceProperty(map[string]any{"desired": map[string]any{}}), []string{"properties[0].desired.value"}},
		"qos":          {"Device", deviceProperty(map[string]any{"pushMethod": map[string]any{"mqtt": map[string]any{"qos": int64(3)}}}), []string{"mqtt.qos", "3"}},
		"port":         {"Device", deviceProperty(map[string]any{"pushMethod": map[string]any{"http": map[string]any{"port": int64(70000)}}}), []string{"http.port", "70000"}},
	} {
		got := refusals(t, c.kind, c.spec)
		if slices.ContainsFunc(c.want, func(s string) bool { return !strings.Contains(got, s) }) {
			t.Errorf("%s: refusal %q does not name %q", name, got, c.want)
		}
	}
}

func TestWhatKubeEdgeAcceptsIsAccepted(t *testing.T) {
	for name, c := range map[string]struct {
		kind string
		spec map[string]any
	}{
		"bounds":             {"DeviceModel", modelProperty(map[string]any{"minimum": "-1.5e3", "maximum": "+100"})},
		"one bound":          {"DeviceModel", modelProperty(map[string]any{"minimum": "0"})},
		"empty bounds":       {"DeviceModel", modelProperty(map[string]any{"minimum": "", "maximum": ""})},
		"no bounds":          {"DeviceModel", modelProperty(nil)},
		"not bound":          {"Device", map[string]any{"nodeName": ""}},
		"cycle by mistake":   {"Device", deviceProperty(map[string]any{"collectCycle": int64(10_000_000_000)})},
		"keys in any case":   {"Device", deviceProperty(map[string]any{"visitors": map[string]any{"protocolName": "modbus", "configData": map[string]any{"Register": "CoilRegister", "Offset": "2"}}})},
		"several deliverers": {"Device", deviceProperty(map[string]any{"pushMethod": map[string]any{"http": map[string]any{"hostName": "h", "port": int64(80)}, "mqtt": map[string]any{"address": "a", "qos": int64(1)}}})},
	} {
		if got := refusals(t, c.kind, c.spec); got != "" {
			t.Errorf("%s is refused: %s", name, got)
		}
	}
}

// The API server estimates what the rules may cost before it takes a definition.
func TestDefinitionsAreTakenByTheAPIServer(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(crds, "devices.kubeedge.io_*.yaml"))
	if err != nil || len(files) != 3 {
		t.Fatalf("definitions: %v %v", files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var d apiext.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(b, &d); err != nil {
			t.Fatal(err)
		}
		apiext.SetDefaults_CustomResourceDefinition(&d)
		apiext.SetDefaults_CustomResourceDefinitionSpec(&d.Spec)
		d.Status.StoredVersions = []string{"v1beta1"}
		var internal apiextensions.CustomResourceDefinition
		if err := apiext.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(&d, &internal, nil); err != nil {
			t.Fatal(err)
		}
		if errs := crdvalidation.ValidateCustomResourceDefinition(t.Context(), &internal); len(errs) > 0 {
			t.Errorf("%s: %v", f, errs.ToAggregate())
		}
	}
}

// The API server takes the ready-made models, and their devices.
func TestModelsAreTakenByTheAPIServer(t *testing.T) {
	files, err := filepath.Glob("../../../deploy/kubernetes/models/*.yaml")
	if err != nil || len(files) < 12 {
		t.Fatalf("%d models: %v", len(files), err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for document := range strings.SplitSeq(string(b), "\n---\n") {
			var o map[string]any
			if err := yaml.UnmarshalStrict([]byte(document), &o); err != nil {
				t.Fatalf("%s: %v", f, err)
			}
			kind, _ := o["kind"].(string)
			spec, _ := o["spec"].(map[string]any)
			if got := refusals(t, kind, spec); got != "" {
				t.Errorf("%s: %s: %s", f, kind, got)
			}
		}
	}
}
