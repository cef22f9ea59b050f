package v1alpha1

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const definitions = "../../../deploy/kubernetes/crds/"

// definition is the part of an OpenAPI schema that is compared.
type definition struct {
	Type       string                `json:"type"`
	Format     string                `json:"format"`
	Properties map[string]definition `json:"properties"`
	Items      *definition           `json:"items"`
	Required   []string              `json:"required"`

	AdditionalProperties *definition `json:"additionalProperties"`
}

func load(t *testing.T, file string) (s definition, columns []string) {
	t.Helper()
	data, err := os.ReadFile(definitions + file)
	if err != nil {
		t.Fatal(err)
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPIV3Schema definition `json:"openAPIV3Schema"`
				} `json:"schema"`
				AdditionalPrinterColumns []struct {
					JSONPath string `json:"jsonPath"`
				} `json:"additionalPrinterColumns"`
			} `json:"versions"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(data, &crd); err != nil {
		t.Fatal(err)
	}
	v := crd.Spec.Versions[0]
	for _, c := range v.AdditionalPrinterColumns {
		columns = append(columns, c.JSONPath)
	}
	return v.Schema.OpenAPIV3Schema, columns
}

// TestDefinitionsHaveEveryField: an API server silently drops a field that the definition
// lacks.
func TestDefinitionsHaveEveryField(t *testing.T) {
	for file, types := range map[string]map[string]any{
		"petiole.dev_sites.yaml":    {"spec": SiteSpec{}, "status": SiteStatus{}},
		"petiole.dev_backlogs.yaml": {"spec": BacklogSpec{}, "status": BacklogStatus{}},
	} {
		s, _ := load(t, file)
		for name, v := range types {
			compare(t, file+" "+name, reflect.TypeOf(v), s.Properties[name])
		}
	}
}

func compare(t *testing.T, path string, typ reflect.Type, s definition) {
	t.Helper()
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	want, format := jsonType(typ)
	if s.Type != want || s.Format != format {
		t.Errorf("%s is %q format %q in the definition, want %q %q", path, s.Type, s.Format, want, format)
		return
	}
	switch {
	case typ.Kind() == reflect.Map:
		compare(t, path+"{}", typ.Elem(), *s.AdditionalProperties)
	case want == "array":
		compare(t, path+"[]", typ.Elem(), *s.Items)
	case want == "object":
		fields := map[string]bool{}
		for i := range typ.NumField() {
			f := typ.Field(i)
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			fields[name] = true
			p, ok := s.Properties[name]
			if !ok {
				t.Errorf("%s.%s is not in the definition", path, name)
				continue
			}
			compare(t, path+"."+name, f.Type, p)
			if strings.Contains(options, "omit") && slices.Contains(s.Required, name) {
				t.Errorf("%s.%s is required and may be left out", path, name)
			}
		}
		for name := range s.Properties {
			if !fields[name] {
				t.Errorf("%s.%s is in the definition only", path, name)
			}
		}
	}
}

func jsonType(typ reflect.Type) (kind, format string) {
	if typ == reflect.TypeFor[metav1.Time]() {
		return "string", "date-time"
	}
	if typ == reflect.TypeFor[resource.Quantity]() {
		return "string", ""
	}
	switch typ.Kind() {
	case reflect.Bool:
		return "boolean", ""
	case reflect.Int32:
		return "integer", "int32"
	case reflect.Int64:
		return "integer", "int64"
	case reflect.String:
		return "string", ""
	case reflect.Slice:
		return "array", ""
	case reflect.Struct, reflect.Map:
		return "object", ""
	}
	return fmt.Sprint(typ), ""
}

func TestColumnsExist(t *testing.T) {
	for _, file := range []string{"petiole.dev_sites.yaml", "petiole.dev_backlogs.yaml"} {
		root, columns := load(t, file)
		for _, path := range columns {
			s := root
			for _, name := range strings.Split(strings.TrimPrefix(path, "."), ".") {
				next, ok := s.Properties[name]
				if !ok {
					t.Errorf("%s: column %s: there is no %s", file, path, name)
					break
				}
				s = next
			}
		}
	}
}
