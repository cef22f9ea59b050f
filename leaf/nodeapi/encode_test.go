package nodeapi

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
		want   media
	}{
		{"", pod, false, mediaJSON},
		{"application/vnd.kubernetes.protobuf,application/json", pod, false, mediaProto},
		{"application/json,application/vnd.kubernetes.protobuf", pod, false, mediaJSON},
		{"application/json;q=0.5, application/vnd.kubernetes.protobuf", pod, false, mediaProto},
		{"application/vnd.kubernetes.protobuf;q=0.5, application/json;q=0.9", pod, false, mediaJSON},
		{"application/vnd.kubernetes.protobuf;q=0, application/json;q=0.1", pod, false, mediaJSON},
		{"application/json;q=0", pod, false, mediaNone},
		{"application/vnd.kubernetes.protobuf,application/json", custom, false, mediaJSON},
		{"application/vnd.kubernetes.protobuf", custom, false, mediaNone},
		{"application/yaml, */*;q=0.1", pod, false, mediaJSON},
		{"application/*", pod, false, mediaJSON},
		{"Application/JSON", pod, false, mediaJSON},
		{tables, pod, true, mediaTable},
		{tables, pod, false, mediaJSON},
		{"application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", pod, true, mediaNone},
		{"text/html", pod, false, mediaNone},
		{";;,/", pod, false, mediaNone},
	} {
		if got := accepted(c.header, c.kind, c.table); got != c.want {
			t.Errorf("Accept: %s (%s, table %t): %d, want %d", c.header, c.kind.Kind, c.table, got, c.want)
		}
	}
}
