package codec

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

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
		current := []byte(pod)
		for _, kind := range []types.PatchType{types.StrategicMergePatchType, types.MergePatchType, types.JSONPatchType} {
			if out, err := applyPatch(kind, corev1.SchemeGroupVersion.WithKind("Pod"), current, patch); err == nil && len(out) == 0 {
				t.Fatalf("%s %q leaves nothing", kind, patch)
			}
			if string(current) != pod {
				t.Fatalf("%s %q changes what is stored", kind, patch)
			}
		}
	})
}
