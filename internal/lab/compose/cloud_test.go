package compose_test

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/petiole-io/petiole/bridge"
	"github.com/petiole-io/petiole/internal/lab/compose"
	"github.com/petiole-io/petiole/internal/metrics"
)

const repository = "../../.."

func TestSecondInitChangesNothing(t *testing.T) {
	cloud := compose.Cloud{Dir: t.TempDir(), Assets: repository, APIPort: 6443, HubData: "/var/lib/nats"}
	if err := cloud.Init(); err != nil {
		t.Fatal(err)
	}
	before := contents(t, cloud.Dir)
	if err := cloud.Init(); err != nil {
		t.Fatal(err)
	}
	after := contents(t, cloud.Dir)
	for _, path := range slices.Sorted(maps.Keys(before)) {
		if after[path] != before[path] {
			t.Errorf("%s has changed", path)
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d files, want %d", len(after), len(before))
	}
	cfg, err := bridge.LoadConfig(filepath.Join(cloud.Dir, "bridge", "bridge.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.Validate(); err != nil {
		t.Error(err)
	}
}

// TestMetricsAreForPrometheusAlone: the gateway has no key of a client, Prometheus none of the gateway.
func TestMetricsAreForPrometheusAlone(t *testing.T) {
	cloud, gateway, prometheus := compose.Cloud{Dir: t.TempDir(), Assets: repository}, t.TempDir(), t.TempDir()
	for range 2 {
		if err := cloud.ShareMetrics(gateway, prometheus); err != nil {
			t.Fatal(err)
		}
	}
	if err := metrics.CheckWebConfig(filepath.Join(gateway, "web.yaml")); err != nil {
		t.Error(err)
	}
	for dir, want := range map[string][]string{
		gateway: {"ca.crt", "gateway.crt", "gateway.key", "web.yaml"}, prometheus: {"ca.crt", "prometheus.crt", "prometheus.key"},
	} {
		var has []string
		for path := range contents(t, dir) {
			has = append(has, filepath.Base(path))
		}
		if slices.Sort(has); !slices.Equal(has, want) {
			t.Errorf("files %q, want %q", has, want)
		}
	}
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		files[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestGatewayIsInNoNetworkOfTheControlPlane(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(repository, "deploy/compose/compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Services map[string]struct {
			Networks   []string
			Privileged bool
		}
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	gateway, controlPlane := file.Services["gateway"], file.Services["controlplane"]
	if len(gateway.Networks) == 0 || len(controlPlane.Networks) == 0 {
		t.Fatalf("networks: gateway %q, control plane %q", gateway.Networks, controlPlane.Networks)
	}
	for _, name := range gateway.Networks {
		if slices.Contains(controlPlane.Networks, name) {
			t.Errorf("both are in the network %s", name)
		}
	}
	for name, s := range file.Services {
		if s.Privileged {
			t.Errorf("service %s is privileged", name)
		}
	}
	for _, host := range []string{"hub", "bridge", "registry", "modbus", "gateway"} {
		if _, ok := file.Services[host]; !ok {
			t.Errorf("no service %s, whose name is a host in the configuration", host)
		}
	}
}
