package nodeapi

import (
	"strings"
	"testing"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// FuzzDocument decodes what a client sends and encodes it again: the content is the same.
func FuzzDocument(f *testing.F) {
	for _, s := range []string{`{"metadata":{"name":"a","labels":{"x":"y"}},"spec":null}`, `{}`, `null`, `[]`, `{"a":1,"a":2}`, `{"":{"":{}}}`, `{"a":"\ud800"}`} {
		f.Add([]byte(s), "metadata")
	}
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		d, err := parseDocument(data)
		if err != nil {
			return
		}
		again, err := parseDocument(d.encode())
		if err != nil {
			t.Fatalf("%q is encoded as %q: %v", data, d.encode(), err)
		}
		for k, v := range d {
			if !sameJSON(v, again[k]) {
				t.Fatalf("%q of %q has become %q", v, data, again[k])
			}
		}
		if c, err := d.child(name); err == nil && len(c) > 0 && isEmpty(d[name]) {
			t.Fatalf("%q has a child %q of nothing", data, name)
		}
		if d.setText(name, name); utf8.ValidString(name) && d.text(name) != name {
			t.Fatalf("text %q is read as %q", name, d.text(name))
		}
		_ = peek(data, name, name)
	})
}

// FuzzPatch applies what a client sends to a pod: it is applied or rejected.
func FuzzPatch(f *testing.F) {
	const pod = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","uid":"u"},"spec":{"containers":[{"name":"c"}]},"status":{"conditions":[{"type":"Ready","status":"True"}]}}`
	for _, s := range []string{
		`{"status":{"conditions":[{"type":"Ready","status":"False"}],"$setElementOrder/conditions":[{"type":"Ready"}]}}`,
		`{"metadata":{"finalizers":null,"$deleteFromPrimitiveList/finalizers":["x"]}}`, `{"spec":{"containers":[{"$patch":"replace"},{"name":"d"}]}}`,
		`[{"op":"add","path":"/metadata/labels","value":{}},{"op":"copy","from":"/spec","path":"/spec/containers/-"}]`, `[{"op":"remove","path":"/spec/containers/7"}]`, `null`, `{}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, patch []byte) {
		current := &object{json: []byte(pod), kind: corev1.SchemeGroupVersion.WithKind("Pod")}
		for _, kind := range []types.PatchType{types.StrategicMergePatchType, types.MergePatchType, types.JSONPatchType} {
			if out, err := applyPatch(kind, current, patch); err == nil && len(out) == 0 {
				t.Fatalf("%s %q leaves nothing", kind, patch)
			}
			if string(current.json) != pod {
				t.Fatalf("%s %q changes what is stored", kind, patch)
			}
		}
	})
}

// FuzzRoute parses paths: a name never contains a slash.
func FuzzRoute(f *testing.F) {
	for _, s := range []string{"/api/v1/namespaces/default/pods/web/status", "/apis/coordination.k8s.io/v1/leases", "/api/v1/namespaces/default", "/healthz", "//", "/api/v1/namespaces//pods"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		rt, ok := parseRoute(path)
		if !ok {
			return
		}
		for _, part := range []string{rt.Group, rt.Version, rt.Resource, rt.namespace, rt.name, rt.sub} {
			if strings.Contains(part, "/") || !strings.Contains(path, part) {
				t.Fatalf("%q is read as %+v", path, rt)
			}
		}
	})
}
