package codec

import (
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/jsonpath"

	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
)

// customTable returns the columns that the definition of a custom resource has, behind the name, as
// the API server shows them (pkg/registry/customresource/tableconvertor of
// k8s.io/apiextensions-apiserver).
func customTable(custom []objects.Column) ([]metav1.TableColumnDefinition, tableRow) {
	definitions := columns("Name")
	paths := make([]*jsonpath.JSONPath, 0, len(custom))
	for _, c := range custom {
		path := jsonpath.New(c.Name).AllowMissingKeys(true)
		if path.Parse("{"+c.JSONPath+"}") != nil {
			continue // the API server does not accept it either
		}
		definitions = append(definitions, metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Format: c.Format, Description: c.Description, Priority: c.Priority})
		paths = append(paths, path)
	}
	return definitions, func(o *objects.Object) ([]any, error) {
		var content map[string]any
		if err := json.Unmarshal(o.JSON, &content); err != nil {
			return nil, fmt.Errorf("read %s: %w", o.Key, err)
		}
		cells := []any{o.Name}
		for i, path := range paths {
			cells = append(cells, cellOf(path, definitions[i+1].Type, content))
		}
		return cells, nil
	}
}

// cellOf returns the value at a path of an object, nil if there is none.
func cellOf(path *jsonpath.JSONPath, kind string, content map[string]any) any {
	found, err := path.FindResults(content)
	if err != nil || len(found) == 0 || len(found[0]) == 0 {
		return nil
	}
	value := found[0][0].Interface()
	text, isText := value.(string)
	switch kind {
	case "date":
		return age(text)
	case "string":
		if value != nil && !isText {
			return fmt.Sprint(value)
		}
	}
	return value
}
