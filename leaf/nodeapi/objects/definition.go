package objects

import (
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// definition is what a site gets of a CustomResourceDefinition: the only version is that of the
// objects.
type definition struct {
	Spec struct {
		Group, Scope string
		Names        struct {
			Plural, Singular, Kind string
			ShortNames, Categories []string
		}
		Versions []struct {
			Name                     string
			AdditionalPrinterColumns []Column
		}
	}
}

// define adds the resource of a definition, so that clients find it before its first object. The
// definition of another resource than its name says, or of a built-in one, is ignored.
func (c catalog) define(o *Object) error {
	var d definition
	if err := json.Unmarshal(o.JSON, &d); err != nil {
		return fmt.Errorf("custom resource definition %s: %w", o.Name, err)
	}
	gr := schema.GroupResource{Group: d.Spec.Group, Resource: d.Spec.Names.Plural}
	if known, ok := c[gr]; gr.String() != o.Name || len(d.Spec.Versions) == 0 || ok && !known.Custom {
		return nil
	}
	v := d.Spec.Versions[0]
	c[gr] = Resource{
		GroupVersionResource: gr.WithVersion(v.Name), Kind: d.Spec.Names.Kind, Namespaced: d.Spec.Scope == "Namespaced", Custom: true,
		Singular: d.Spec.Names.Singular, ShortNames: d.Spec.Names.ShortNames, Categories: d.Spec.Names.Categories, Columns: v.AdditionalPrinterColumns,
	}
	return nil
}

// forget removes a custom resource that has neither a definition nor objects.
func (c catalog) forget(gr schema.GroupResource, ts tables) {
	if r, ok := c[gr]; !ok || !r.Custom {
		return
	}
	if e := ts.of(Definitions).entries[Key{Name: gr.String()}]; e != nil && e.effective != nil {
		return
	}
	for _, e := range ts.of(gr).entries {
		if e.effective != nil {
			return
		}
	}
	delete(c, gr)
}

// changed updates the catalog after the effective object of a custom resource, or of a definition,
// has changed to o, nil if it is gone.
func (c catalog) changed(ts tables, gr schema.GroupResource, k Key, o *Object) error {
	switch {
	case gr == Definitions && o != nil:
		return c.define(o)
	case gr == Definitions:
		c.forget(schema.ParseGroupResource(k.Name), ts)
	case o == nil:
		c.forget(gr, ts)
	}
	return nil
}
