package helm

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write what the chart renders to the folder golden")

const (
	folder     = "petiole"
	manifests  = "../kubernetes"
	keepPolicy = "helm.sh/resource-policy"
)

// cases are the values in the folder golden, by the Namespace that they are rendered for.
var cases = map[string]string{"plain": "petiole-system", "minimal": "petiole-system", "everything": "edge"}

// TestMain silences what Helm logs about each symbolic link: the chart has the manifests of
// deploy/kubernetes by links, so that there is one of each.
func TestMain(m *testing.M) {
	flag.Parse()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

func readValues(t *testing.T, name string) map[string]any {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("golden", name+".values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	if err := yaml.UnmarshalStrict(data, &values); err != nil {
		t.Fatal(err)
	}
	return values
}

func load(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.LoadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// render returns what the chart's templates render, by template.
func render(c *chart.Chart, namespace string, values map[string]any) (map[string]string, error) {
	return renderFor(c, kubernetes("37"), namespace, values)
}

// kubernetes returns what a cluster of Kubernetes 1.minor can do.
func kubernetes(minor string) *common.Capabilities {
	c := common.DefaultCapabilities.Copy()
	c.KubeVersion = common.KubeVersion{Version: "v1." + minor + ".0", Major: "1", Minor: minor}
	return c
}

func renderFor(c *chart.Chart, cluster *common.Capabilities, namespace string, values map[string]any) (map[string]string, error) {
	release := common.ReleaseOptions{Name: "petiole", Namespace: namespace, Revision: 1, IsInstall: true}
	all, err := util.ToRenderValues(c, values, release, cluster)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for path, text := range files {
		if name := filepath.Base(path); strings.TrimSpace(text) != "" && strings.HasSuffix(name, ".yaml") {
			out[name] = text
		}
	}
	return out, nil
}

// objects decodes manifests, by kind and name.
func objects(t *testing.T, texts ...string) map[string]*unstructured.Unstructured {
	t.Helper()
	all := map[string]*unstructured.Unstructured{}
	for _, text := range texts {
		for d := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096); ; {
			o := &unstructured.Unstructured{}
			if err := d.Decode(&o.Object); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			if len(o.Object) == 0 {
				continue
			}
			key := o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
			if all[key] != nil {
				t.Errorf("%s is rendered twice", key)
			}
			all[key] = o
		}
	}
	return all
}

// TestGolden: what the chart renders is in the folder golden, which the tests of the bridge apply
// to an API server. CRDs are not: they are in deploy/kubernetes/crds.
func TestGolden(t *testing.T) {
	for name, namespace := range cases {
		files, err := render(load(t), namespace, readValues(t, name))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		delete(files, "crds.yaml")
		var b bytes.Buffer
		b.WriteString("# Rendered by `go tool task helm`. Do not edit.\n")
		for _, file := range slices.Sorted(maps.Keys(files)) {
			b.WriteString("---\n# Source: " + file + "\n" + strings.TrimSpace(files[file]) + "\n")
		}
		path := filepath.Join("golden", name+".yaml")
		if *update {
			if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		golden, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(golden, b.Bytes()) {
			t.Errorf("%s is not what the chart renders: run go tool task helm", path)
		}
		if len(objects(t, b.String())) < 15 {
			t.Errorf("%s has %d objects", name, len(objects(t, b.String())))
		}
	}
}

// TestPlainManifestsAreEqual: users without Helm get the same objects.
func TestPlainManifestsAreEqual(t *testing.T) {
	files, err := render(load(t), cases["plain"], readValues(t, "plain"))
	if err != nil {
		t.Fatal(err)
	}
	rendered := objects(t, slices.Collect(maps.Values(files))...)
	paths, err := filepath.Glob(filepath.Join(manifests, "crds", "*.yaml"))
	if err != nil || len(paths) < 5 {
		t.Fatalf("found %d definitions, %v", len(paths), err)
	}
	var texts []string
	for _, path := range append(paths, filepath.Join(manifests, "bridge.yaml"), filepath.Join(manifests, "rbac.yaml"), filepath.Join(manifests, "tolerations-policy.yaml"), filepath.Join(manifests, "devices-policy.yaml")) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(text))
	}
	plain := objects(t, texts...)
	delete(plain, "Namespace /petiole-system") // helm install --create-namespace

	for _, o := range rendered {
		switch o.GetKind() {
		case "Deployment": // the annotation by which Helm's upgrade restarts the pods
			unstructured.RemoveNestedField(o.Object, "spec", "template", "metadata", "annotations")
		case "CustomResourceDefinition":
			annotations := o.GetAnnotations()
			if annotations[keepPolicy] != "keep" {
				t.Errorf("helm uninstall deletes %s, and with it all of its objects", o.GetName())
			}
			unstructured.RemoveNestedField(o.Object, "metadata", "annotations", keepPolicy)
			if len(annotations) == 1 {
				unstructured.RemoveNestedField(o.Object, "metadata", "annotations")
			}
		}
	}
	for _, all := range []map[string]*unstructured.Unstructured{rendered, plain} {
		parseConfig(t, all["ConfigMap petiole-system/bridge"])
	}
	for _, key := range slices.Sorted(maps.Keys(plain)) {
		if rendered[key] == nil {
			t.Errorf("the chart does not render %s", key)
		} else if !reflect.DeepEqual(rendered[key].Object, plain[key].Object) {
			t.Errorf("%s differs. The chart renders:\n%s\n%s has:\n%s", key, text(t, rendered[key]), manifests, text(t, plain[key]))
		}
		delete(rendered, key)
	}
	for key := range rendered {
		t.Errorf("%s does not have %s, which the chart renders", manifests, key)
	}
}

// parseConfig replaces bridge.yaml by what is in it.
func parseConfig(t *testing.T, o *unstructured.Unstructured) {
	t.Helper()
	config := map[string]any{}
	if err := yaml.UnmarshalStrict([]byte(o.Object["data"].(map[string]any)["bridge.yaml"].(string)), &config); err != nil {
		t.Fatal(err)
	}
	o.Object["data"] = config
}

func text(t *testing.T, o *unstructured.Unstructured) string {
	t.Helper()
	b, err := yaml.Marshal(o.Object)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestLint(t *testing.T) {
	for name, namespace := range cases {
		for _, m := range lint.RunAll(folder, readValues(t, name), namespace).Messages {
			if m.Severity > support.InfoSev {
				t.Errorf("%s: %v", name, m)
			}
		}
	}
}

// TestDefaults: the chart can be rendered with a Namespace and nothing else.
func TestDefaults(t *testing.T) {
	c := load(t)
	files, err := render(c, "petiole-system", map[string]any{})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(files["bridge.yaml"], "image: petiole/bridge:"+c.Metadata.AppVersion+"\n") {
		t.Error("the bridge's image does not have the version of the chart")
	}
	if files["hub.yaml"] != "" || files["monitoring.yaml"] != "" {
		t.Error("a hub, or objects of the Prometheus operator, without being asked for")
	}
}

// TestWithoutAnAuthorityOfItsOwn: with an empty caFile the bridge uses the authorities of its image, as
// for a hub with a certificate of a public one.
func TestWithoutAnAuthorityOfItsOwn(t *testing.T) {
	files, err := render(load(t), "petiole-system", map[string]any{"bridge": map[string]any{"config": map[string]any{"nats": map[string]any{"caFile": ""}}}})
	if err != nil {
		t.Fatal(err)
	}
	if text := files["bridge.yaml"]; strings.Contains(text, "ca.crt") || !strings.Contains(text, "urls:\n      - tls://hub.petiole-system.svc:4222") {
		t.Errorf("the configuration of the bridge:\n%.800s", text)
	}
}

// TestBadValues: an error names the field and the value.
func TestBadValues(t *testing.T) {
	c := load(t)
	for values, want := range map[string][]string{
		"bridge: {replicas: 0}":                                          {"/bridge/replicas", "got 0"},
		"bridge: {replicas: two}":                                        {"/bridge/replicas", "got string, want integer"},
		"bridge: {replica: 3}":                                           {"/bridge", "'replica' not allowed"},
		"birdge: {replicas: 3}":                                          {"'birdge' not allowed"},
		"bridge: {image: {pullPolicy: Sometimes}}":                       {"/bridge/image/pullPolicy", "'Sometimes'"},
		"bridge: {image: {digest: 0123}}":                                {"/bridge/image/digest"},
		"bridge: {config: {nats: {urls: [\"hub:4222\"]}}}":               {"/bridge/config/nats/urls/0", "'hub:4222'"},
		"bridge: {config: {nats: {url: \"tls://hub:4222\"}}}":            {"/bridge/config/nats", "'url' not allowed"},
		"bridge: {config: {gateways: {url: \"http://hub\"}}}":            {"/bridge/config/gateways/url", "'http://hub'"},
		"bridge: {config: {limits: {workers: 300}}}":                     {"/bridge/config/limits/workers", "got 300"},
		"bridge: {config: {log: {level: loud}}}":                         {"/bridge/config/log/level", "'loud'"},
		"bridge: {config: {metrics: {listen: \":1\"}}}":                  {"/bridge/config", "'metrics' not allowed"},
		"bridge: {kubeletAPI: false, config: {kubeletAPI: {port: 443}}}": {"bridge.config.kubeletAPI", `{"port":443}`, "needs bridge.kubeletAPI true"},
		"hub: {gateways: {type: Ingress}}":                               {"/hub/gateways/type", "'Ingress'"},
		"hub: {gateways: {nodePort: 30742}}":                             {"hub.gateways.nodePort", "30742", "not LoadBalancer"},
		"hub: {storage: {size: large}}":                                  {"/hub/storage/size", "'large'"},
		"hub: {maxFileStore: 3 GB}":                                      {"/hub/maxFileStore", "'3 GB'"},
		"hub: {enabled: true}\nbridge: {config: {nats: {replicas: 3}}}":  {"bridge.config.nats.replicas", "3", "one server"},
		"networkPolicy: {prometheusNamespace: \"\"}":                     {"/networkPolicy/prometheusNamespace", "''"},
		"serviceMonitor: {interval: often}":                              {"/serviceMonitor/interval", "'often'"},
		"crds: {petiole: maybe}":                                         {"/crds/petiole", "got string, want boolean"},
	} {
		bad := map[string]any{}
		if err := yaml.UnmarshalStrict([]byte(values), &bad); err != nil {
			t.Fatal(err)
		}
		_, err := render(c, "petiole-system", bad)
		if err == nil {
			t.Errorf("%s is accepted", values)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: the error does not have %q: %v", values, w, err)
			}
		}
	}
}

// TestOlderKubernetes: before 1.36 the chart needs two values, which it names.
func TestOlderKubernetes(t *testing.T) {
	c, cluster := load(t), kubernetes("35")
	for values, want := range map[string]string{
		"{}": "bridge.config.kubernetes.impersonation: constrained: needs Kubernetes 1.36, the cluster has v1.35.0: set classic",
		"bridge: {config: {kubernetes: {impersonation: classic}}}":                           "tolerationsPolicy: true: needs Kubernetes 1.36, the cluster has v1.35.0: set false",
		"tolerationsPolicy: false\nbridge: {config: {kubernetes: {impersonation: classic}}}": "",
	} {
		old := map[string]any{}
		if err := yaml.UnmarshalStrict([]byte(values), &old); err != nil {
			t.Fatal(err)
		}
		_, err := renderFor(c, cluster, "petiole-system", old)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", values, err, want)
		}
	}
}

// TestObjectsOfThePrometheusOperator: they have no field that the operator does not know, and the
// rules are those of alerts.yaml.
func TestObjectsOfThePrometheusOperator(t *testing.T) {
	files, err := render(load(t), cases["everything"], readValues(t, "everything"))
	if err != nil {
		t.Fatal(err)
	}
	all := objects(t, files["monitoring.yaml"])
	var monitor monitoringv1.ServiceMonitor
	var rule monitoringv1.PrometheusRule
	for key, into := range map[string]any{"ServiceMonitor edge/bridge": &monitor, "PrometheusRule edge/petiole": &rule} {
		if all[key] == nil {
			t.Fatalf("no %s", key)
		}
		if err := yaml.UnmarshalStrict([]byte(text(t, all[key])), into); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	if len(monitor.Spec.Endpoints) != 1 || monitor.Spec.Endpoints[0].Port != "metrics" || len(monitor.Spec.Selector.MatchLabels) != 2 {
		t.Errorf("ServiceMonitor %+v", monitor.Spec)
	}
	alerts, err := os.ReadFile(filepath.Join(manifests, "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var want monitoringv1.PrometheusRuleSpec
	if err := yaml.UnmarshalStrict(alerts, &want); err != nil {
		t.Fatal(err)
	}
	if len(want.Groups) < 2 || !reflect.DeepEqual(rule.Spec, want) {
		t.Error("the rules differ from alerts.yaml")
	}
}
