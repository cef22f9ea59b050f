package leaf

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/petiole-io/petiole/internal/configfile"
)

func TestValidateReportsEveryBadField(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Site, cfg.Node, cfg.DataDir, cfg.LogLevel = "Plant A", "", "", "loud"
	cfg.NATS.URL, cfg.NATS.ConfigFile = "", ""
	cfg.NodeAPI.Listen = "0.0.0.0:10441"
	cfg.Kubelet.ConfigFile = "/nowhere/kubelet.yaml"
	cfg.Storage.TelemetryBytes, cfg.Storage.ReserveBytes = 7, -1
	cfg.Metrics.Listen = "here"
	err := cfg.Validate()
	if err == nil {
		t.Fatal("a configuration that is wrong in every field is accepted")
	}
	for _, want := range []string{
		`site: "Plant A"`, `node: ""`, `dataDir: ""`, `logLevel: "loud"`, `nats.configFile: ""`,
		`nodeAPI.listen: "0.0.0.0:10441"`, `kubelet.configFile: "/nowhere/kubelet.yaml"`, `storage.telemetryBytes: "7"`,
		`storage.reserveBytes: "-1"`, `metrics.listen: "here"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s:\n%v", want, err)
		}
	}
}

func TestUnknownKeyIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leaf.yaml")
	if err := os.WriteFile(path, []byte("site: plant-a\nnodeApi: {}\nsitee: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	if err := configfile.Load(path, &cfg); err == nil || !strings.Contains(err.Error(), "sitee") {
		t.Errorf("Load = %v, want an error that names the key", err)
	}
}
