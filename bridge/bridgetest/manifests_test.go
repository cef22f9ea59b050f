package bridgetest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/petiole-io/petiole/bridge"
)

// deploymentIsValid: the API server accepts the manifests and what the chart renders without a
// warning, its pods where Pod Security enforces "restricted", and the bridge the configuration.
func deploymentIsValid(t *testing.T, a *api) {
	for path, c := range map[string]struct {
		namespace string
		kinds     map[string]int
	}{
		"../../deploy/kubernetes/bridge.yaml": {"petiole-system", map[string]int{
			"ConfigMap": 1, "Deployment": 1, "NetworkPolicy": 1, "PodDisruptionBudget": 1, "Service": 2,
		}},
		"../../deploy/helm/golden/plain.yaml": {"petiole-system", map[string]int{
			"ConfigMap": 1, "Deployment": 1, "NetworkPolicy": 1, "PodDisruptionBudget": 1, "Service": 2,
			"ClusterRole": 5, "ClusterRoleBinding": 2, "Role": 3, "RoleBinding": 4, "ServiceAccount": 1,
			"MutatingAdmissionPolicy": 1, "MutatingAdmissionPolicyBinding": 1, "ValidatingAdmissionPolicy": 1, "ValidatingAdmissionPolicyBinding": 1,
		}},
		"../../deploy/helm/golden/minimal.yaml": {"petiole-system", map[string]int{
			"ConfigMap": 1, "Deployment": 1, "PodDisruptionBudget": 1, "Service": 1,
			"ClusterRole": 5, "ClusterRoleBinding": 2, "Role": 3, "RoleBinding": 4, "ServiceAccount": 1,
		}},
		"../../deploy/helm/golden/everything.yaml": {"edge", map[string]int{
			"ConfigMap": 2, "Deployment": 1, "NetworkPolicy": 2, "PodDisruptionBudget": 1, "Service": 4, "StatefulSet": 1,
			"ClusterRole": 5, "ClusterRoleBinding": 3, "Role": 3, "RoleBinding": 4, "ServiceAccount": 2,
			"MutatingAdmissionPolicy": 1, "MutatingAdmissionPolicyBinding": 1, "ValidatingAdmissionPolicy": 1, "ValidatingAdmissionPolicyBinding": 1, "ServiceMonitor": 1, "PrometheusRule": 1,
		}},
	} {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) {
			kinds := newDryRun(t, a, c.namespace).file(path)
			if !maps.Equal(kinds, c.kinds) {
				t.Errorf("%s has %v, want %v", path, kinds, c.kinds)
			}
		})
	}
}

// dryRun sends objects to an API server that validates them and stores nothing.
type dryRun struct {
	t       *testing.T
	dynamic dynamic.Interface
	kube    kubernetes.Interface
	mapper  meta.RESTMapper
}

// newDryRun returns a dryRun for pods in a namespace in which Pod Security enforces "restricted".
// The test fails if the API server warns.
func newDryRun(t *testing.T, a *api, namespace string) *dryRun {
	t.Helper()
	rc := rest.CopyConfig(a.config)
	warned := &warnings{}
	rc.WarningHandler = warned
	d := &dryRun{t: t, mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(a.admin.Discovery()))}
	var err1, err2 error
	d.dynamic, err1 = dynamic.NewForConfig(rc)
	d.kube, err2 = kubernetes.NewForConfig(rc)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if len(*warned) > 0 {
			t.Errorf("the API server warns: %v", *warned)
		}
	})
	_, err := d.kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: namespace, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"},
	}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	for _, account := range []string{"bridge", "hub", "default"} { // pods need theirs, and a dry run does not store it
		_, err := d.kube.CoreV1().ServiceAccounts(namespace).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	if err := d.pod(namespace, podFor("kubernetes.io/os")); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "PodSecurity") {
		t.Errorf("a pod that is not restricted in namespace %s: %v", namespace, err)
	}
	return d
}

// file applies the objects of a manifest and creates the pods of its workloads. It returns the
// number of objects of each kind.
func (d *dryRun) file(path string) map[string]int {
	d.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		d.t.Fatal(err)
	}
	kinds := map[string]int{}
	for dec := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096); ; {
		var o unstructured.Unstructured
		if err := dec.Decode(&o.Object); errors.Is(err, io.EOF) {
			return kinds
		} else if err != nil {
			d.t.Fatalf("%s: %v", path, err)
		}
		if len(o.Object) > 0 {
			kinds[o.GetKind()]++
			d.object(&o)
		}
	}
}

func (d *dryRun) object(o *unstructured.Unstructured) {
	d.t.Helper()
	gvk := o.GroupVersionKind()
	if gvk.Group == "monitoring.coreos.com" {
		return // of the Prometheus operator, which is not installed: deploy/helm validates these
	}
	m, err := d.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		d.t.Fatal(err)
	}
	force := true
	body, err := json.Marshal(o)
	if err != nil {
		d.t.Fatal(err)
	}
	_, err = d.dynamic.Resource(m.Resource).Namespace(o.GetNamespace()).Patch(d.t.Context(), o.GetName(), "application/apply-patch+yaml", body, metav1.PatchOptions{
		DryRun: []string{metav1.DryRunAll}, FieldManager: "test", Force: &force, FieldValidation: metav1.FieldValidationStrict,
	})
	if err != nil {
		d.t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
	}
	switch o.GetKind() {
	case "Deployment", "StatefulSet":
		d.workload(o)
	case "ConfigMap":
		if text, ok, _ := unstructured.NestedString(o.Object, "data", "bridge.yaml"); ok {
			d.configuration(text)
		}
	}
}

// workload creates the pod of a Deployment or StatefulSet.
func (d *dryRun) workload(o *unstructured.Unstructured) {
	d.t.Helper()
	template, _, err := unstructured.NestedMap(o.Object, "spec", "template")
	if err != nil {
		d.t.Fatal(err)
	}
	var pod corev1.Pod
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(template, &pod); err != nil {
		d.t.Fatal(err)
	}
	pod.Name = o.GetName()
	claims, _, err := unstructured.NestedSlice(o.Object, "spec", "volumeClaimTemplates")
	if err != nil {
		d.t.Fatal(err)
	}
	for range claims { // what the controller of StatefulSets adds
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data-" + pod.Name + "-0"},
		}})
	}
	if err := d.pod(o.GetNamespace(), &pod); err != nil {
		d.t.Errorf("pod of %s %s: %v", o.GetKind(), o.GetName(), err)
	}
}

func (d *dryRun) pod(namespace string, pod *corev1.Pod) error {
	_, err := d.kube.CoreV1().Pods(namespace).Create(d.t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict})
	return err
}

// configuration loads a configuration of the bridge.
func (d *dryRun) configuration(text string) {
	d.t.Helper()
	path := filepath.Join(d.t.TempDir(), "bridge.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
	if cfg, err := bridge.LoadConfig(path); err != nil || cfg.Metrics.Listen != ":10442" {
		d.t.Errorf("configuration %+v, %v", cfg, err)
	}
}

// warnings are those of an API server.
type warnings []string

func (w *warnings) HandleWarningHeader(_ int, _ string, text string) { *w = append(*w, text) }
