package objects

import (
	"fmt"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/streams"
)

var widgets = schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "widgets"}

// definitionMessage returns the definition of widgets in a version, or its tombstone.
func definitionMessage(op streams.Op, version int, served string) streams.Message {
	m := streams.Message{Ref: streams.Ref{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions", Name: "widgets.example.com"}, Op: op, UID: "d1", Version: fmt.Sprint(version)}
	if op != streams.OpDelete {
		m.Object = fmt.Appendf(nil, `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"widgets.example.com","uid":"d1"},`+
			`"spec":{"group":"example.com","scope":"Namespaced","names":{"plural":"widgets","singular":"widget","kind":"Widget","shortNames":["wi"]},`+
			`"versions":[{"name":%q,"served":true,"additionalPrinterColumns":[{"name":"Size","type":"integer","jsonPath":".spec.size"}]}]}}`, served)
	}
	return m
}

func widgetMessage(op streams.Op, version int, served string) streams.Message {
	m := streams.Message{Ref: streams.Ref{Group: "example.com", Resource: "widgets", Namespace: "default", Name: "w"}, Op: op, UID: "w1", Version: fmt.Sprint(version)}
	if op != streams.OpDelete {
		m.Object = fmt.Appendf(nil, `{"apiVersion":"example.com/%s","kind":"Widget","metadata":{"namespace":"default","name":"w","uid":"w1"},"spec":{"size":%d}}`, served, version)
	}
	return m
}

// TestCustomResourceComesAndGoes: a custom resource is there from its definition or its first object
// on, whichever comes first, with the names of the definition, until both are gone.
func TestCustomResourceComesAndGoes(t *testing.T) {
	put, del := streams.OpPut, streams.OpDelete
	for name, messages := range map[string][4]streams.Message{
		"definition first": {definitionMessage(put, 1, "v1"), widgetMessage(put, 2, "v1"), widgetMessage(del, 3, ""), definitionMessage(del, 4, "")},
		"object first":     {widgetMessage(put, 1, "v1"), definitionMessage(put, 2, "v1"), definitionMessage(del, 3, ""), widgetMessage(del, 4, "")},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore()
			s.catalog[Definitions] = Resource{GroupVersionResource: Definitions.WithVersion("v1"), Kind: "CustomResourceDefinition"}
			for i, m := range messages {
				must(t, s.Apply(m))
				r, served := s.Lookup(widgets)
				if served != (i < 3) || served && (r.Kind != "Widget" || !r.Namespaced) {
					t.Errorf("after message %d: %+v, served: %v", i, r, served)
				}
				if i == 1 && (r.Singular != "widget" || !slices.Equal(r.ShortNames, []string{"wi"}) || len(r.Columns) != 1 || r.Columns[0].JSONPath != ".spec.size") {
					t.Errorf("the resource is %+v", r)
				}
			}
			// An old message does not bring it back.
			must(t, s.Apply(widgetMessage(put, 1, "v1")))
			if o := s.Get(widgets.GroupResource(), Key{"default", "w"}); o != nil {
				t.Errorf("a deleted object is back: %s", o.JSON)
			}
		})
	}
}

// TestCustomResourceInAnotherVersion: when the cloud prefers another version, the objects come in it.
func TestCustomResourceInAnotherVersion(t *testing.T) {
	s := newStore()
	s.catalog[Definitions] = Resource{GroupVersionResource: Definitions.WithVersion("v1"), Kind: "CustomResourceDefinition"}
	must(t, s.Apply(definitionMessage(streams.OpPut, 1, "v1beta1")))
	must(t, s.Apply(widgetMessage(streams.OpPut, 2, "v1beta1")))
	must(t, s.Apply(widgetMessage(streams.OpPut, 3, "v1")))
	must(t, s.Apply(definitionMessage(streams.OpPut, 4, "v1")))
	if r, served := s.Lookup(widgets); !served || r.Singular != "widget" {
		t.Errorf("widgets in v1: %+v, served: %v", r, served)
	}
	if o := s.Get(widgets.GroupResource(), Key{"default", "w"}); o == nil || o.Kind.Version != "v1" {
		t.Errorf("the object is %+v", o)
	}
}

// TestDefinitionOfABuiltInResource: no definition changes what the node API serves itself.
func TestDefinitionOfABuiltInResource(t *testing.T) {
	s := newStore()
	s.catalog[Definitions] = Resource{GroupVersionResource: Definitions.WithVersion("v1"), Kind: "CustomResourceDefinition"}
	before := s.catalog[Pods]
	must(t, s.Apply(streams.Message{
		Ref: streams.Ref{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions", Name: "pods"}, Op: streams.OpPut, UID: "d2", Version: "1",
		Object: []byte(`{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"pods","uid":"d2"},"spec":{"group":"","scope":"Cluster","names":{"plural":"pods","kind":"X"},"versions":[{"name":"v9"}]}}`),
	}))
	if now := s.catalog[Pods]; now.Kind != before.Kind || now.Version != before.Version || now.Custom {
		t.Errorf("pods are %+v, were %+v", now, before)
	}
}
