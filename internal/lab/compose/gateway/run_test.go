package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/petiole-io/petiole/deploy"
	"github.com/petiole-io/petiole/internal/configfile"
	"github.com/petiole-io/petiole/leaf"
)

func TestMetricsAreServedInTheNetworkOfTheSite(t *testing.T) {
	changed, err := withMetrics(deploy.LeafYAML, "/var/lib/join/web.yaml")
	if err != nil {
		t.Fatal(err)
	}
	again, err := withMetrics(changed, "/var/lib/join/web.yaml")
	if err != nil || again != changed {
		t.Errorf("a second start changes it: %v", err)
	}
	file := filepath.Join(t.TempDir(), "leaf.yaml")
	if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := leaf.DefaultConfig()
	if err := configfile.Load(file, &cfg); err != nil {
		t.Fatal(err)
	}
	if cfg.Metrics.Listen != "0.0.0.0:10443" || cfg.Metrics.WebConfigFile != "/var/lib/join/web.yaml" {
		t.Errorf("metrics: %+v", cfg.Metrics)
	}
	if _, err := withMetrics("site: plant-a\n", "/var/lib/join/web.yaml"); err == nil {
		t.Error("no error without metrics")
	}
}
