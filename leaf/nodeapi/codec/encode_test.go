package codec

import (
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestAcceptedEncoding(t *testing.T) {
	pod := schema.GroupVersionKind{Version: "v1", Kind: "Pod"}
	custom := schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Widget"}
	const tables = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
	for _, c := range []struct {
		header string
		kind   schema.GroupVersionKind
		table  bool
		want   Media
	}{
		{"", pod, false, JSON},
		{"application/vnd.kubernetes.protobuf,application/json", pod, false, Protobuf},
		{"application/json,application/vnd.kubernetes.protobuf", pod, false, JSON},
		{"application/json;q=0.5, application/vnd.kubernetes.protobuf", pod, false, Protobuf},
		{"application/vnd.kubernetes.protobuf;q=0.5, application/json;q=0.9", pod, false, JSON},
		{"application/vnd.kubernetes.protobuf;q=0, application/json;q=0.1", pod, false, JSON},
		{"application/json;q=0", pod, false, None},
		{"application/vnd.kubernetes.protobuf,application/json", custom, false, JSON},
		{"application/vnd.kubernetes.protobuf", custom, false, None},
		{"application/yaml, */*;q=0.1", pod, false, JSON},
		{"application/*", pod, false, JSON},
		{"Application/JSON", pod, false, JSON},
		{tables, pod, true, Table},
		{tables, pod, false, JSON},
		{"application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", pod, true, None},
		{"text/html", pod, false, None},
		{";;,/", pod, false, None},
	} {
		if got := Accepted(c.header, c.kind, c.table); got != c.want {
			t.Errorf("Accept: %s (%s, table %t): %d, want %d", c.header, c.kind.Kind, c.table, got, c.want)
		}
	}
}
