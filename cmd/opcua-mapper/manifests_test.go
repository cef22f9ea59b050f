package main

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

// TestManifestsAreValid: the API server takes the example as it is, and drops nothing.
func TestManifestsAreValid(t *testing.T) {
	for file, crd := range map[string]string{"opcua-model.yaml": "devicemodels", "opcua-device.yaml": "devices"} {
		var object map[string]any
		decode(t, filepath.Join(examples, file), &object)
		var d apiext.CustomResourceDefinition
		decode(t, filepath.Join(examples, "..", "crds", "devices.kubeedge.io_"+crd+".yaml"), &d)
		var schema apiextensions.JSONSchemaProps
		if err := apiext.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(d.Spec.Versions[0].Schema.OpenAPIV3Schema, &schema, nil); err != nil {
			t.Fatal(err)
		}
		s, err := structural.NewStructural(&schema)
		if err != nil {
			t.Fatal(err)
		}
		v, _, err := validation.NewSchemaValidator(&schema)
		if err != nil {
			t.Fatal(err)
		}
		if errs := validation.ValidateCustomResource(nil, object, v); len(errs) > 0 {
			t.Errorf("%s: %v", file, errs.ToAggregate())
		}
		errs, _ := cel.NewValidator(s, true, celconfig.PerCallLimit).Validate(t.Context(), nil, s, object, nil, math.MaxInt64)
		if len(errs) > 0 {
			t.Errorf("%s: %v", file, errs.ToAggregate())
		}
		if pruned := pruning.PruneWithOptions(object, s, true, structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}); len(pruned) > 0 {
			t.Errorf("%s: unknown fields %v", file, pruned)
		}
	}
}

func decode(t *testing.T, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(b, into); err != nil {
		t.Fatal(path, err)
	}
}
