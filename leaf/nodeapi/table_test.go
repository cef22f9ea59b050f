package nodeapi

import (
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestTablesForKubectl(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	l.pod(newPod("a", "u1", "10", func(p *corev1.Pod) {
		p.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.1.2.3", ContainerStatuses: []corev1.ContainerStatus{{Ready: true, RestartCount: 2}}}
	}))
	l.configMap(newConfigMap("c", "u2", "11", "x"))
	r := l.start(t.TempDir())
	// What kubectl sends: tables of two versions, else plain JSON.
	accept := "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
	for path, want := range map[string]string{
		"/api/v1/pods":                            "a 1/1 Running 2",
		"/api/v1/namespaces/default/pods/a":       "a 1/1 Running 2",
		"/api/v1/namespaces/default/configmaps/c": "c",
	} {
		b, err := r.json().CoreV1().RESTClient().Get().AbsPath(path).SetHeader("Accept", accept).DoRaw(t.Context())
		must(t, err)
		var table metav1.Table
		must(t, json.Unmarshal(b, &table))
		if table.Kind != "Table" || len(table.Rows) != 1 || len(table.Rows[0].Cells) != len(table.ColumnDefinitions) {
			t.Errorf("%s: %s", path, b)
			continue
		}
		var cells []string
		for _, c := range table.Rows[0].Cells {
			cells = append(cells, c.(string))
		}
		if got := strings.Join(cells, " "); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
		var meta metav1.PartialObjectMetadata
		must(t, json.Unmarshal(table.Rows[0].Object.Raw, &meta))
		if meta.Kind != "PartialObjectMetadata" || meta.Namespace != "default" {
			t.Errorf("%s: row object %+v", path, meta)
		}
	}
}
